#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "config/sample.h"

namespace asplash::config::testing {
namespace {

struct Case {
  const char* text;
  const char* message;
};

void expect_messages(const std::vector<Case>& cases) {
  for (const Case& c : cases) EXPECT_EQ(message_of(c.text), c.message) << "for:\n" << c.text;
}

TEST(BadConfig, WrongTypes) {
  expect_messages({
      {"train:\n  steps: 1.5",
       "x.yaml:2: train.steps: is not an integer (1.5); expected an integer, at least 1"},
      {"train: {steps: many}",
       "x.yaml:1: train.steps: is not an integer (many); expected an integer, at least 1"},
      {"train:\n  steps: \"5\"",
       "x.yaml:2: train.steps: is text in quotes (\"5\"); expected an integer, at least 1"},
      {"train:\n  steps:", "x.yaml:2: train.steps: has no value; expected an integer, at least 1"},
      {"train:\n  steps: ~", "x.yaml:2: train.steps: has no value; expected an integer, at least 1"},
      {"train:\n  steps: [5]", "x.yaml:2: train.steps: is a list; expected an integer, at least 1"},
      {"train:\n  steps:\n    a: 5",
       "x.yaml:2: train.steps: is a section with keys of its own; expected an integer, at least 1"},
      {"train: {batch: 1_000}", "x.yaml:1: train.batch: is not an integer (1_000); expected an integer"},
      {"train: {batch: 0x10}", "x.yaml:1: train.batch: is not an integer (0x10); expected an integer"},
      {"train: {batch: 010}", "x.yaml:1: train.batch: is not an integer (010); expected an integer"},
      {"train: {batch: 99999999999999999999}",
       "x.yaml:1: train.batch: is not an integer (99999999999999999999); expected an integer"},
      {"train: {batch: 1e30}", "x.yaml:1: train.batch: is not an integer (1e30); expected an integer"},
      {"train: {shuffle: yes}",
       "x.yaml:1: train.shuffle: is not true or false (yes); expected true or false"},
      {"train: {shuffle: 1}", "x.yaml:1: train.shuffle: is not true or false (1); expected true or false"},
      {"train: {shuffle: \"true\"}",
       "x.yaml:1: train.shuffle: is text in quotes (\"true\"); expected true or false"},
      {"train: {output: }", "x.yaml:1: train.output: has no value; expected text (\"\" for empty text)"},
      {"train: {output: [a]}", "x.yaml:1: train.output: is a list; expected text"},
      {"optim: {lr: .nan}", "x.yaml:1: optim.lr: is not a number (.nan); expected a number, greater than 0"},
      {"optim: {lr: .inf}", "x.yaml:1: optim.lr: is not a number (.inf); expected a number, greater than 0"},
      {"optim: {lr: 1e999}",
       "x.yaml:1: optim.lr: is not a number (1e999); expected a number, greater than 0"},
      {"optim: {lr: 1.0.0}",
       "x.yaml:1: optim.lr: is not a number (1.0.0); expected a number, greater than 0"},
      {"optim: {lr: 1e}", "x.yaml:1: optim.lr: is not a number (1e); expected a number, greater than 0"},
      {"optim: 5",
       "x.yaml:1: optim: is one value (5); expected a section with keys of its own, or leave it out"},
      {"optim:\ntrain: {}",
       "x.yaml:1: optim: has no value; expected a section with keys of its own, or leave it out"},
      {"optim: [lr]", "x.yaml:1: optim: is a list; expected a section with keys of its own, or leave it out"},
      {"contexts: 512",
       "x.yaml:1: contexts: is not a list (512); expected a list, each an integer, between 1 and 65536 "
       "(for one: [512])"},
      {"contexts:",
       "x.yaml:1: contexts: has no value; expected a list, each an integer, between 1 and 65536 (for none: "
       "[])"},
      {"names:\n  - a\n  - {b: c}", "x.yaml:3: names[1]: is a section with keys of its own; expected text"},
      {"names:\n  - a\n  -\n", "x.yaml:1: names[1]: has no value; expected text (\"\" for empty text)"},
  });
}

TEST(BadConfig, RangesChoicesAndRules) {
  expect_messages({
      {"train:\n  steps: 0", "x.yaml:2: train.steps: is out of range (0); expected an integer, at least 1"},
      {"optim: {lr: -1}", "x.yaml:1: optim.lr: is out of range (-1); expected a number, greater than 0"},
      {"optim: {alpha: 1}",
       "x.yaml:1: optim.alpha: is out of range (1); expected a number, greater than 1 and at most 2"},
      {"optim:\n  inner:\n    share: 1.01",
       "x.yaml:3: optim.inner.share: is out of range (1.01); expected a number, between 0 and 1"},
      {"contexts:\n- 512\n- 70000\n- x",
       "x.yaml:3: contexts[1]: is out of range (70000); expected an integer, between 1 and 65536\n"
       "x.yaml:4: contexts[2]: is not an integer (x); expected an integer, between 1 and 65536"},
      {"optim: {schedule: cosin}",
       "x.yaml:1: optim.schedule: is none of the choices (cosin); expected one of cosine, linear, constant; "
       "did you mean 'cosine'?"},
      {"optim: {schedule: 7}",
       "x.yaml:1: optim.schedule: is none of the choices (7); expected one of cosine, linear, constant"},
      {"optim: {schedule: }",
       "x.yaml:1: optim.schedule: has no value; expected one of cosine, linear, constant"},
      {"optim:\n  lr_min: 0.5", "x.yaml:2: optim.lr_min: must be at most lr (0.5 against 0.001)"},
      // The key of the rule was not written: its section is named, or the first line.
      {"train: {}\noptim:\n  lr: 1e-5", "x.yaml:2: optim.lr_min: must be at most lr (0.0001 against 1e-05)"},
      {"contexts: [1]\ntrain:\n  steps: 13", "x.yaml:3: train.steps: 13 is refused"},
      {"# names\nnames: [a, b, c]", "x.yaml:2: names: must be fewer than 3 (3)"},
      // A rule over values that were bad themselves is no news ...
      {"optim:\n  lr: fast\n  lr_min: 0.5",
       "x.yaml:2: optim.lr: is not a number (fast); expected a number, greater than 0"},
      // ... but one beside them is, and so is one beside an unknown key.
      {"optim:\n  lr_min: 0.5\n  lrr: 1\ntrain: {}",
       "x.yaml:2: optim.lr_min: must be at most lr (0.5 against 0.001)\n"
       "x.yaml:3: optim.lrr: unknown key; did you mean 'optim.lr'?"},
      {"optim: {lr_min: 0.5}\ntrain: {steps: x}",
       "x.yaml:1: optim.lr_min: must be at most lr (0.5 against 0.001)\n"
       "x.yaml:2: train.steps: is not an integer (x); expected an integer, at least 1"},
  });
}

TEST(BadConfig, UnknownAndDuplicateKeys) {
  expect_messages({
      {"trian:\n  steps: 5", "x.yaml:1: trian: unknown key; did you mean 'train'?"},
      {"optim:\n  shcedule: linear", "x.yaml:2: optim.shcedule: unknown key; did you mean 'optim.schedule'?"},
      {"optim:\n  inner:\n    sharre: 1",
       "x.yaml:3: optim.inner.sharre: unknown key; did you mean 'optim.inner.share'?"},
      {"lr: 1", "x.yaml:1: lr: unknown key; did you mean 'optim.lr'?"},
      {"train:\n  alpha: 1.5", "x.yaml:2: train.alpha: unknown key; did you mean 'optim.alpha'?"},
      {"optim.lr: 1", "x.yaml:1: optim.lr: unknown key with a dot; write one section inside the other"},
      {"zzzzzzz: 1", "x.yaml:1: zzzzzzz: unknown key; known here: train, optim, contexts, names"},
      {"train:\n  steps: 5\n  steps: 6", "x.yaml:3: train.steps: is written twice (first at x.yaml:2)"},
      {"train: {}\noptim: {}\ntrain: {}", "x.yaml:3: train: is written twice (first at x.yaml:1)"},
      {"? [a]\n: 1", "x.yaml:1: a key must be a name; here stands a list, a map or nothing"},
      {"train:\n  ~: 1", "x.yaml:2: train: a key must be a name; here stands a list, a map or nothing"},
  });
}

TEST(BadConfig, AllProblemsInOrderOfLines) {
  EXPECT_EQ(message_of("names: x\ntrain:\n  stps: 1\n  batch: b\n  batch: c\noptim: {lr: 0}\nwhat: 1"),
            "x.yaml:1: names: is not a list (x); expected a list, each text (for one: [x])\n"
            "x.yaml:3: train.stps: unknown key; did you mean 'train.steps'?\n"
            "x.yaml:4: train.batch: is not an integer (b); expected an integer\n"
            "x.yaml:5: train.batch: is written twice (first at x.yaml:4)\n"
            "x.yaml:6: optim.lr: is out of range (0); expected a number, greater than 0\n"
            "x.yaml:7: what: unknown key; known here: train, optim, contexts, names");
}

TEST(BadConfig, YamlThatIsRefused) {
  expect_messages({
      {"train: &t {steps: 5}",
       "x.yaml:1: train: YAML anchors (&name) are not supported; write the value out, or share it by base:"},
      {"train: {batch: &b 5}\noptim: {lr: *b}",
       "x.yaml:1: train.batch: YAML anchors (&name) are not supported; write the value out, or share it by "
       "base:\n"
       "x.yaml:2: optim.lr: YAML aliases (*name) are not supported; write the value out, or share it by "
       "base:"},
      {"train:\n  steps: !!int 5",
       "x.yaml:2: train.steps: YAML tags (tag:yaml.org,2002:int) are not supported; "
       "remove it"},
      {"train:\n  <<: {steps: 1}",
       "x.yaml:2: train.<<: YAML merge keys are not supported; share values by base:"},
      {"train: {}\n---\noptim: {}",
       "x.yaml:2: not valid YAML: a second document, or text after the end of the first (column 1)"},
      {"just text", "x.yaml:1: holds a single value or a list; expected keys and values (key: value)"},
      {"- a\n- b", "x.yaml:1: holds a single value or a list; expected keys and values (key: value)"},
      {"train:\n  output: \"a\xff\"", "x.yaml:2: is not valid UTF-8"},
      {"train:\n  output: a\x04", "x.yaml:2: holds control characters: this is not a text file"},
  });
  EXPECT_EQ(message_of(std::string("train:\0 1", 9)),
            "x.yaml:1: holds control characters: this is not a text file");
}

// The parser's own words differ between versions: what is ours is the place.
TEST(BadConfig, SyntaxErrorsNameTheLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"train:\n  steps: [1, 2\noptim: {}", "x.yaml:3: not valid YAML: "},
      {"train:\n  output: \"open\n  batch: 3\noptim: {}\n",
       "x.yaml:2: train.output: not valid YAML: a quote is opened and not closed"},
      {"train:\n  output: 'open", "x.yaml:2: train.output: not valid YAML: a quote is opened and not closed"},
      {"\"train:\n  output: 'open\n", "x.yaml:"},
      {"train: {}\n  batch: 1", "x.yaml:2: not valid YAML: "},
      {"train:\n\tsteps: 5", "x.yaml:2: not valid YAML: "},
      {"a: b: c", "x.yaml:1: not valid YAML: "},
      {"names: [*nothing]", "x.yaml:1: not valid YAML: "},
      {"%YAML 9.9\n---\na: 1", "x.yaml:"},
  };
  for (const auto& [text, start] : cases) {
    const std::string message = message_of(text);
    EXPECT_EQ(message.substr(0, start.size()), start) << text << "\n" << message;
  }
}

TEST(BadConfig, Overrides) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"optim.lr=fast", "--set optim.lr: is not a number (fast); expected a number, greater than 0"},
      {"optim.lr=-1", "--set optim.lr: is out of range (-1); expected a number, greater than 0"},
      {"optim.lrr=1", "--set optim.lrr: unknown key; did you mean 'optim.lr'?"},
      {"otpim.lr=1", "--set otpim.lr: otpim: unknown key; did you mean 'optim'?"},
      {"lr=1", "--set lr: unknown key; did you mean 'optim.lr'?"},
      {"optim.lr", "--set optim.lr: has no value; expected key=value, as in optim.lr=3e-4"},
      {"=5", "--set : is not a key; expected names joined by dots, as in optim.lr=3e-4"},
      {"optim..lr=5", "--set optim..lr: is not a key; expected names joined by dots, as in optim.lr=3e-4"},
      {"optim.lr =5", "--set optim.lr : is not a key; expected names joined by dots, as in optim.lr=3e-4"},
      {"optim.lr=", "--set optim.lr: is not a number (); expected a number, greater than 0"},
      {"train.output=~", "--set train.output: has no value; expected text (\"\" for empty text)"},
      {"optim=3", "--set optim: is one value (3); expected a section with keys of its own, or leave it out"},
      {"optim={lr: x}", "--set optim: optim.lr: is not a number (x); expected a number, greater than 0"},
      {"train.batch.a=3", "--set train.batch.a: train.batch has a value of its own and no keys below it"},
      {"train.steps.a=3",
       "--set train.steps.a: train.steps: is a section with keys of its own; expected an integer, at least "
       "1"},
      {"base=other.yaml", "--set base: can only be written in a file"},
      {"optim.lr_min=1", "--set optim.lr_min: must be at most lr (1 against 0.001)"},
  };
  for (const auto& [override_text, message] : cases) {
    EXPECT_EQ(message_of("train: {batch: 1}", {override_text}), message);
  }
  const std::string syntax = message_of("", {"train.output=[a"});
  EXPECT_EQ(syntax.substr(0, 35), "--set train.output: not valid YAML:") << syntax;
  const std::string alias = message_of("", {"train.output=*.txt"});
  EXPECT_NE(alias.find("in quotes"), std::string::npos) << alias;
  EXPECT_EQ(message_of("train: {batch: x}", {"zz=1", "optim.lr=0"}),
            "x.yaml:1: train.batch: is not an integer (x); expected an integer\n"
            "--set zz: unknown key; known here: train, optim, contexts, names\n"
            "--set optim.lr: is out of range (0); expected a number, greater than 0");
}

TEST(BadConfig, HostileTextEndsQuickly) {
  EXPECT_NE(message_of(std::string(200000, '[')).find("nested deeper than 32 levels"), std::string::npos);
  EXPECT_NE(message_of("a: " + std::string(200000, '{')).find("nested deeper"), std::string::npos);
  std::string dashes;
  for (int i = 0; i < 20000; ++i) dashes += "- ";
  EXPECT_NE(message_of(dashes).find("nested deeper"), std::string::npos);
  EXPECT_EQ(message_of(std::string((1 << 20) + 1, '#')),
            "x.yaml: is 1.0 MiB long; no configuration is over 1.0 MiB");

  EXPECT_EQ(message_of(","),
            "x.yaml:1: not valid YAML: a second document, or text after the end of the first (column 1)");

  std::string bomb = "a: &a [x, x]\n";
  for (char c = 'b'; c <= 'z'; ++c) {
    bomb += std::string(1, c) + ": &" + c + " [*" + static_cast<char>(c - 1) + ", *" +
            static_cast<char>(c - 1) + "]\n";
  }
  EXPECT_NE(message_of(bomb).find("aliases"), std::string::npos);

  std::string keys;
  for (int i = 0; i < 40000; ++i) keys += "k" + std::to_string(i) + ": 1\n";
  const std::string message = message_of(keys);
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 100);
  EXPECT_NE(message.find("... and 39900 more problems"), std::string::npos);
  EXPECT_NE(message_of("", {std::string(100000, 'a') + ".b=1"}), "");
  std::string deep = "a";
  for (int i = 0; i < 50000; ++i) deep += ".a";
  EXPECT_NE(message_of("", {deep + "=1"}).find("is not a key"), std::string::npos);
}

// Damaged files: whatever stands there, load_text() returns or throws ConfigError.
TEST(BadConfig, RandomDamageNeverCrashes) {
  const std::string good =
      "# a run\ntrain:\n  steps: 100\n  output: \"runs/a b\"\noptim:\n  lr: 1.0e-3\n  schedule: linear\n"
      "  inner: {share: 0.25, slopes: [1, 0.5]}\ncontexts: [512, 1024]\nnames: ['a', |\n    b\n  ]\n";
  const std::string letters = "{}[]:,-#&*!|>'\"%@`? \n\tabc019.\x80\xc3";
  std::mt19937 random(7);
  const auto below = [&random](size_t n) { return static_cast<size_t>(random()) % n; };
  for (int round = 0; round < 3000; ++round) {
    std::string text = good;
    for (size_t edits = 1 + below(6); edits > 0; --edits) {
      const size_t at = below(text.size());
      switch (below(3)) {
        case 0:
          text[at] = letters[below(letters.size())];
          break;
        case 1:
          text.insert(at, 1, letters[below(letters.size())]);
          break;
        default:
          text.erase(at, 1 + below(8));
          break;
      }
      if (text.empty()) text = "a";
    }
    EXPECT_NO_THROW(message_of(text, {"optim.lr=" + text.substr(below(text.size()), 5)})) << text;
  }
}

}  // namespace
}  // namespace asplash::config::testing
