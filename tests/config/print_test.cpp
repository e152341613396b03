#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "config/sample.h"

namespace asplash::config::testing {
namespace {

TEST(Print, WithoutDocs) {
  Sample sample;
  sample.optim.inner.slopes = {1, 0.5};
  sample.names = {"a", "b c"};
  EXPECT_EQ(print(describing(sample)),
            "train:\n"
            "  steps: 100\n"
            "  batch: 8\n"
            "  shuffle: true\n"
            "  output: runs/default\n"
            "optim:\n"
            "  lr: 0.001\n"
            "  lr_min: 0.0001\n"
            "  alpha: 1.5\n"
            "  schedule: cosine\n"
            "  inner:\n"
            "    share: 0.5\n"
            "    slopes: [1, 0.5]\n"
            "contexts: [512, 1024]\n"
            "names: [a, \"b c\"]\n");
}

template <class Struct>
std::string documented(Struct& value) {
  Struct defaults;
  return print_documented(describing(value), describing(defaults));
}

TEST(Print, DocsAreCommentsWithWhatIsValidAndTheDefault) {
  Sample sample;
  sample.train.steps = 7;
  sample.optim.schedule = Shape::constant;
  sample.optim.inner.slopes = {2};
  sample.contexts = {64};
  const std::string text = documented(sample);
  for (const char* part :
       {"# the run\ntrain:\n  # optimizer steps (at least 1; default 100)\n  steps: 7\n",
        "  # sequences of a step (default 8)\n  batch: 8\n",
        "  # shuffle the windows (true or false; default true)\n", "  # run folder (default runs/default)\n",
        "  # shape of the learning rate (one of cosine, linear, constant; default cosine)\n",
        "  # of entmax (greater than 1 and at most 2; default 1.5)\n",
        "    # one per head (each greater than 0; default [])\n    slopes: [2]\n",
        "# lengths (each between 1 and 65536; default [512, 1024])\ncontexts: [64]\n"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "in\n" << text;
  }
  Sample back;
  back.train.steps = 1;
  load_text(text, "printed", {}, describing(back));
  EXPECT_EQ(documented(back), text);
}

struct LongDoc {
  int64_t a = 1;
  void describe(Fields& f) {
    f.field(
        "a", a,
        "a documentation that is much longer than a line of a comment should be, so that it has to be broken "
        "somewhere between two words\nand has a line break of its own");
  }
};

TEST(Print, LongDocsAreBroken) {
  LongDoc sample;
  EXPECT_EQ(documented(sample),
            "# a documentation that is much longer than a line of a comment should be, so that it has to be\n"
            "# broken somewhere between two words and has a line break of its own (default 1)\n"
            "a: 1\n");
}

struct Nothing {
  void describe(Fields&) {}
};
struct HoldsNothing {
  Nothing nothing;
  int64_t after = 3;
  void describe(Fields& f) {
    f.section("nothing", nothing, "no fields");
    f.field("after", after, "");
  }
};

TEST(Print, EmptySectionsReadBack) {
  HoldsNothing sample;
  const std::string text = print(describing(sample));
  EXPECT_EQ(text, "nothing: {}\nafter: 3\n");
  EXPECT_NO_THROW(load_text(text, "printed", {}, describing(sample)));
}

/// Random values of all kinds, to be printed and read back.
class RandomValues {
 public:
  explicit RandomValues(uint32_t seed) : random_(seed) {}

  double number() {
    while (true) {
      const uint64_t bits = random_();
      double value = 0;
      switch (random_() % 4) {
        case 0:
          std::memcpy(&value, &bits, sizeof value);
          break;
        case 1:
          value = static_cast<double>(bits % 100000) / 1000;
          break;
        case 2:
          value = std::ldexp(1.0, static_cast<int>(bits % 2000) - 1074);
          break;
        default:
          value = static_cast<double>(static_cast<int64_t>(bits));
          break;
      }
      if (std::isfinite(value)) return value;
    }
  }
  int64_t integer() { return static_cast<int64_t>(random_() >> (random_() % 64)); }

  std::string text() {
    static const std::vector<std::string> kPieces = {" ",
                                                     "  ",
                                                     "\n",
                                                     "\t",
                                                     "\r",
                                                     "\"",
                                                     "'",
                                                     "\\",
                                                     ":",
                                                     ": ",
                                                     " #",
                                                     "#",
                                                     "-",
                                                     "- ",
                                                     "[",
                                                     "]",
                                                     "{",
                                                     "}",
                                                     ",",
                                                     "&",
                                                     "*",
                                                     "!",
                                                     "|",
                                                     ">",
                                                     "%",
                                                     "@",
                                                     "`",
                                                     "?",
                                                     "~",
                                                     "a",
                                                     "null",
                                                     "true",
                                                     "yes",
                                                     "0",
                                                     "1e5",
                                                     ".",
                                                     ".inf",
                                                     "=",
                                                     "<<",
                                                     "...",
                                                     "---",
                                                     "/",
                                                     "x.y",
                                                     "\x01",
                                                     "\x04",
                                                     "\x1b",
                                                     "\x7f",
                                                     "\xc2\x85",
                                                     "\xe2\x80\xa8",
                                                     "\xe2\x80\xa9",
                                                     "\xef\xbb\xbf",
                                                     "\xc3\xa4",
                                                     "\xf0\x9f\x98\x80",
                                                     std::string(1, '\0')};
    std::string result;
    for (uint64_t pieces = random_() % 6; pieces > 0; --pieces) result += kPieces[random_() % kPieces.size()];
    return result;
  }

 private:
  std::mt19937_64 random_;
};

struct Anything {
  double a = 0;
  int64_t b = 0;
  std::string c;
  std::vector<double> d;
  std::vector<int64_t> e;
  std::vector<std::string> g;
  bool h = false;

  void describe(Fields& f) {
    f.field("a", a, "");
    f.field("b", b, "");
    f.field("c", c, "");
    f.field("d", d, "");
    f.field("e", e, "");
    f.field("g", g, "");
    f.field("h", h, "");
  }
};

TEST(Print, ReadsBackExactly) {
  RandomValues values(11);
  for (int round = 0; round < 3000; ++round) {
    Anything before;
    before.a = values.number();
    before.b = values.integer();
    before.c = values.text();
    for (int i = 0; i < round % 4; ++i) {
      before.d.push_back(values.number());
      before.e.push_back(values.integer());
      before.g.push_back(values.text());
    }
    before.h = round % 2 == 0;
    const std::string text = round % 3 == 0 ? documented(before) : print(describing(before));
    Anything after;
    ASSERT_NO_THROW(load_text(text, "printed", {}, describing(after))) << text;
    ASSERT_EQ(std::memcmp(&before.a, &after.a, sizeof before.a), 0) << text;
    ASSERT_EQ(before.b, after.b) << text;
    ASSERT_EQ(before.c, after.c) << text;
    ASSERT_EQ(before.d, after.d) << text;
    ASSERT_EQ(before.e, after.e) << text;
    ASSERT_EQ(before.g, after.g) << text;
    ASSERT_EQ(before.h, after.h) << text;
    ASSERT_EQ(round % 3 == 0 ? documented(after) : print(describing(after)), text);
  }
}

TEST(Print, NumbersAreShort) {
  const std::vector<std::pair<double, std::string>> cases = {
      {0.1, "0.1"},
      {3e-4, "0.0003"},
      {1e-5, "1.0e-05"},
      {100000, "100000"},
      {-0.0, "-0"},
      {1.0 / 3, "0.3333333333333333"},
      {std::numeric_limits<double>::denorm_min(), "4.94065645841247e-324"}};
  for (const auto& [value, text] : cases) {
    Anything sample;
    sample.a = value;
    EXPECT_EQ(print(describing(sample)).substr(0, text.size() + 4), "a: " + text + "\n");
  }
}

TEST(Print, TextThatIsNotUtf8IsRefused) {
  Anything sample;
  sample.c = "a\xff";
  EXPECT_THROW(print(describing(sample)), Error);
}

TEST(Differences, NamesEachFieldThatDiffers) {
  Sample before;
  Sample after;
  EXPECT_TRUE(differences(describing(before), describing(after)).empty());
  after.optim.lr = 3e-4;
  after.optim.inner.slopes = {1};
  after.optim.schedule = Shape::linear;
  after.train.output = "a b";
  after.names = {"x"};
  EXPECT_EQ(differences(describing(before), describing(after)),
            (std::vector<std::string>{"train.output: runs/default -> \"a b\"", "optim.lr: 0.001 -> 0.0003",
                                      "optim.schedule: cosine -> linear", "optim.inner.slopes: [] -> [1]",
                                      "names: [] -> [x]"}));
}

TEST(Differences, FieldsOfOneSideOnly) {
  LongDoc one;
  HoldsNothing other;
  EXPECT_EQ(differences(describing(one), describing(other)),
            (std::vector<std::string>{"after: (none) -> 3", "a: 1 -> (none)"}));
}

}  // namespace
}  // namespace asplash::config::testing
