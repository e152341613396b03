// Keys that are written, but not used: which are contradictions, and what printing makes of them.
#include <gtest/gtest.h>

#include "asplash/base/files.h"
#include "base/folder_test.h"
#include "config/sample.h"

namespace asplash::config::testing {
namespace {

enum class Kind { rotary, biased };

struct Attention {
  Kind kind = Kind::rotary;
  double theta = 10000;
  double slope = 1;

  void describe(Fields& f) {
    f.choice("kind", kind, {{Kind::rotary, "rotary"}, {Kind::biased, "biased"}}, "how");
    f.only_where(kind == Kind::rotary, "theta", "kind", "rotary");
    f.field("theta", theta, "rotary: base");
    f.only_where(kind == Kind::biased, "slope", "kind", "biased");
    f.field("slope", slope, "biased: slope");
  }
};

struct Bias {
  bool on = false;
  double size = 1;

  void describe(Fields& f) {
    f.only_where(on, "size", "on", "true");
    f.field("size", size, "of the bias");
  }
};

struct Model {
  Attention attention;
  Bias bias;

  void describe(Fields& f) {
    f.section("attention", attention, "what attends");
    f.section("bias", bias, "a section of which nothing may be used");
  }
};

struct Root {
  Model model;
  void describe(Fields& f) { f.section("model", model, "the model"); }
};

class UnusedKeys : public asplash::testing::FolderTest {
 protected:
  void write(const std::string& name, const std::string& text) const {
    write_file_atomically(path(name), text);
  }
  /// The problems of a file, its folder cut off.
  std::string problems(const std::string& name, const std::vector<std::string>& overrides = {}) const {
    Root root;
    std::string text = asplash::testing::error_of([&] { load(path(name), overrides, describing(root)); });
    for (size_t at; (at = text.find(path(""))) != std::string::npos;) text.erase(at, path("").size());
    return text;
  }
};

constexpr const char* kSlopeProblem = "model.attention.slope: is given, but not used: it needs kind: biased";

TEST_F(UnusedKeys, AreRefusedBesideWhatContradictsThem) {
  write("both.yaml", "model:\n  attention:\n    slope: 1\n    kind: rotary\n");
  EXPECT_EQ(problems("both.yaml"), std::string("both.yaml:3: ") + kSlopeProblem);
  write("default.yaml", "model:\n  attention: {slope: 2}\n");
  EXPECT_EQ(problems("default.yaml"), std::string("default.yaml:2: ") + kSlopeProblem);
  write("fits.yaml", "model:\n  attention: {slope: 2, kind: biased}\n");
  EXPECT_EQ(problems("fits.yaml"), "");
}

TEST_F(UnusedKeys, AnOverrideMayChooseOtherwiseThanTheFile) {
  write("slope.yaml", "model:\n  attention: {slope: 2, kind: biased}\n");
  EXPECT_EQ(problems("slope.yaml", {"model.attention.kind=rotary"}), "");
  EXPECT_EQ(problems("slope.yaml", {"model.attention.theta=5"}),
            "--set model.attention.theta: is given, but not used: it needs kind: rotary");
  EXPECT_EQ(problems("slope.yaml", {"model.attention.kind=rotary", "model.attention.slope=3"}),
            std::string("--set ") + kSlopeProblem);
}

TEST_F(UnusedKeys, AFileMayChooseOtherwiseThanItsBase) {
  write("base.yaml", "model:\n  attention: {slope: 2, kind: biased}\n");
  write("other.yaml", "base: base.yaml\nmodel:\n  attention:\n    kind: rotary\n");
  EXPECT_EQ(problems("other.yaml"), "");
  write("late.yaml", "base: other.yaml\nmodel:\n  attention:\n    slope: 3\n");
  EXPECT_EQ(problems("late.yaml"), std::string("late.yaml:4: ") + kSlopeProblem);
}

TEST_F(UnusedKeys, AreAllowedWhereAProgramWroteThem) {
  Root root;
  load_text("model: {attention: {slope: 2}}", "x", {}, describing(root), Unused::allowed);
  EXPECT_EQ(root.model.attention.slope, 2);
  EXPECT_THROW(load_text("model: {attention: {slope: -}}", "x", {}, describing(root), Unused::allowed),
               ConfigError);
}

TEST_F(UnusedKeys, ArePrintedAsCommentsAndMakeNoDifference) {
  Root root, other;
  root.model.attention.slope = 7;
  const std::string text = print(describing(root));
  EXPECT_NE(text.find("    kind: rotary\n    theta: 10000\n    # not used: slope: 7\n"), std::string::npos)
      << text;
  EXPECT_TRUE(differences(describing(root), describing(other)).empty());
  load_text(text, "printed", {}, describing(other));
  Root defaults;
  load_text(print_documented(describing(root), describing(defaults)), "printed", {}, describing(other));
  other.model.attention.theta = 5;
  EXPECT_EQ(differences(describing(root), describing(other)),
            std::vector<std::string>{"model.attention.theta: 10000 -> 5"});
}

TEST_F(UnusedKeys, UnknownKeysAreFoundByTheirLastNames) {
  write("empty.yaml", "");
  EXPECT_EQ(problems("empty.yaml", {"attention.theta=5"}),
            "--set attention.theta: attention: unknown key; did you mean 'model.attention.theta'?");
  EXPECT_EQ(problems("empty.yaml", {"attention.nothing=5"}),
            "--set attention.nothing: attention: unknown key; did you mean 'model.attention'?");
  write("root.yaml", "attention:\n  kind: biased\n");
  EXPECT_EQ(problems("root.yaml"),
            "root.yaml:1: attention: unknown key; did you mean 'model.attention.kind'?");
}

}  // namespace
}  // namespace asplash::config::testing
