#include <gtest/gtest.h>

#include "config/sample.h"

namespace asplash::config::testing {
namespace {

TEST(Load, EmptyTextGivesDefaults) {
  for (const char* text : {"", "\n", "# only a comment\n", "---\n", "{}", "train: {}\noptim: {inner: {}}"}) {
    const Sample sample = sample_of(text);
    EXPECT_EQ(sample.train.steps, 100) << text;
    EXPECT_EQ(sample.optim.lr, 1e-3) << text;
    EXPECT_EQ(sample.contexts, (std::vector<int64_t>{512, 1024})) << text;
  }
}

TEST(Load, EveryKindOfValue) {
  const Sample sample = sample_of(
      "train:\n  steps: 1e3\n  batch: -7\n  shuffle: false\n  output: 123\n"
      "optim:\n  lr: +3e-4\n  lr_min: 0\n  alpha: 2\n  schedule: \"linear\"\n"
      "  inner:\n    share: .25\n    slopes: [1, 0.5, 2.5e-1]\n"
      "contexts:\n  - 1\n  - 65536\n"
      "names: [a b, \"c: d\"]\n");
  EXPECT_EQ(sample.train.steps, 1000);
  EXPECT_EQ(sample.train.batch, -7);
  EXPECT_FALSE(sample.train.shuffle);
  EXPECT_EQ(sample.train.output, "123");
  EXPECT_EQ(sample.optim.lr, 3e-4);
  EXPECT_EQ(sample.optim.lr_min, 0);
  EXPECT_EQ(sample.optim.alpha, 2);
  EXPECT_EQ(sample.optim.schedule, Shape::linear);
  EXPECT_EQ(sample.optim.inner.share, 0.25);
  EXPECT_EQ(sample.optim.inner.slopes, (std::vector<double>{1, 0.5, 0.25}));
  EXPECT_EQ(sample.contexts, (std::vector<int64_t>{1, 65536}));
  EXPECT_EQ(sample.names, (std::vector<std::string>{"a b", "c: d"}));
}

TEST(Load, Integers) {
  EXPECT_EQ(sample_of("train: {batch: 9223372036854775807}").train.batch, INT64_MAX);
  EXPECT_EQ(sample_of("train: {batch: -9223372036854775808}").train.batch, INT64_MIN);
  EXPECT_EQ(sample_of("train: {batch: +5}").train.batch, 5);
  EXPECT_EQ(sample_of("train: {batch: 2.5e1}").train.batch, 25);
  EXPECT_EQ(sample_of("train: {batch: 0}").train.batch, 0);
}

TEST(Load, TextInManyForms) {
  EXPECT_EQ(sample_of("train: {output: \"\"}").train.output, "");
  EXPECT_EQ(sample_of("train: {output: '~'}").train.output, "~");
  EXPECT_EQ(sample_of("train:\n  output: |\n    two\n    lines\n").train.output, "two\nlines\n");
  EXPECT_EQ(sample_of("train:\r\n  output: windows\r\n  batch: 3\r\n").train.output, "windows");
  EXPECT_EQ(sample_of("train: {output: true}").train.output, "true");
}

TEST(Load, OverridesWinInOrder) {
  const Sample sample = sample_of(
      "optim: {lr: 1, inner: {share: 0.1}}",
      {"optim.lr=2", "optim.lr=3e-4", "contexts=[7, 8]", "optim.inner.slopes=[0.5]", "train.output=a=b",
       "train.shuffle=false", "optim={schedule: constant}", "names=[]", "optim.lr_min=1e-6"});
  EXPECT_EQ(sample.optim.lr, 3e-4);
  EXPECT_EQ(sample.optim.inner.share, 0.1);
  EXPECT_EQ(sample.optim.inner.slopes, std::vector<double>{0.5});
  EXPECT_EQ(sample.optim.schedule, Shape::constant);
  EXPECT_EQ(sample.contexts, (std::vector<int64_t>{7, 8}));
  EXPECT_EQ(sample.train.output, "a=b");
  EXPECT_FALSE(sample.train.shuffle);
}

TEST(Load, OverridesWithoutAValueAreEmptyText) {
  EXPECT_EQ(sample_of("train: {output: here}", {"train.output="}).train.output, "");
  EXPECT_EQ(sample_of("train: {output: here}", {"train.output=\"\""}).train.output, "");
}

TEST(Load, BadValuesLeaveTheStructAlone) {
  Sample sample;
  EXPECT_THROW(load_text("train: {steps: 0, batch: 3}\ncontexts: [5, x]", "x.yaml", {}, describing(sample)),
               ConfigError);
  EXPECT_EQ(sample.train.steps, 100);
  EXPECT_EQ(sample.contexts, (std::vector<int64_t>{512, 1024}));
}

struct Twice {
  int64_t a = 0;
  void describe(Fields& f) {
    f.field("a", a, "");
    f.field("a", a, "");
  }
};

TEST(Load, DescribingAKeyTwiceIsAMistakeOfTheProgram) {
  Twice twice;
  EXPECT_THROW(load_text("", "x.yaml", {}, describing(twice)), std::logic_error);
}

}  // namespace
}  // namespace asplash::config::testing
