#include "asplash/train/run_config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "asplash/config/config.h"

namespace asplash::train {
namespace {

std::string problems_of(const std::string& yaml) {
  RunConfig config;
  try {
    config::load_text(yaml, "test.yaml", {}, config::describing(config));
  } catch (const config::ConfigError& error) {
    return error.what();
  }
  return "";
}

constexpr const char* kData = "data:\n  train: packed\n  context: 512\n";

TEST(RunConfig, DefaultsNeedOnlyData) {
  EXPECT_EQ(problems_of(kData), "");
  EXPECT_NE(problems_of("train:\n  steps: 3\n").find("data.train"), std::string::npos);
}

TEST(RunConfig, TokensPerStepNamesValidNeighbours) {
  const std::string problems =
      problems_of(std::string(kData) + "train:\n  tokens_per_step: 10000\n  micro_batch: 3\n");
  EXPECT_NE(problems.find("test.yaml:5: train.tokens_per_step"), std::string::npos) << problems;
  EXPECT_NE(problems.find("9216 or 10752"), std::string::npos) << problems;
  EXPECT_NE(problems_of(std::string(kData) + "train:\n  tokens_per_step: 100\n").find("nearest: 512"),
            std::string::npos);
  EXPECT_EQ(problems_of(std::string(kData) + "train:\n  tokens_per_step: 9216\n  micro_batch: 3\n"), "");
}

TEST(RunConfig, RefusesValuesOutsideTheirRanges) {
  for (const char* line : {"steps: 0", "steps: 1.5", "tokens_per_step: 0", "micro_batch: -1", "seed: -1",
                           "threads: -2", "precision: fp16", "max_skipped_in_a_row: 0", "log_every: 0",
                           "evaluate_every: -1", "keep_checkpoints: 0", "output: ''", "stepps: 3"}) {
    EXPECT_NE(problems_of(std::string(kData) + "train:\n  " + line + "\n"), "") << line;
  }
  for (const char* line : {"context: 1", "context: 9223372036854775807", "documents: both", "prefetch: 0"}) {
    EXPECT_NE(problems_of(std::string("data:\n  train: x\n  ") + line + "\n"), "") << line;
  }
}

TEST(RunConfig, CountsMicroBatches) {
  RunConfig config;
  config.data.context = 256;
  config.train.tokens_per_step = 8192;
  EXPECT_EQ(config.micro_batch(), 32);
  EXPECT_EQ(config.accumulation(), 1);
  config.train.micro_batch = 8;
  EXPECT_EQ(config.accumulation(), 4);
}

/// Each shipped file with softmax and entmax and with any kind of positions, whatever it says of the others.
TEST(RunConfig, ShippedFilesTakeTheUsualOverrides) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(ASPLASH_SOURCE_DIR "/configs")) {
    ++files;
    for (const char* override_text :
         {"train.seed=2", "model.attention.function=softmax", "model.attention.function=entmax",
          "model.positions.kind=rope", "model.positions.kind=nope", "model.positions.kind=alibi",
          "model.positions.slopes=reciprocal", "optim.schedule=constant", "optim.schedule=linear",
          "optim.schedule=warmup_stable_decay"}) {
      RunConfig config, again;
      EXPECT_NO_THROW(config::load(entry.path().string(), {override_text}, config::describing(config)))
          << entry.path() << " " << override_text;
      EXPECT_NO_THROW(config::load_text(config::print(config::describing(config)), "printed", {},
                                        config::describing(again)))
          << entry.path() << " " << override_text;
      EXPECT_TRUE(config::differences(config::describing(config), config::describing(again)).empty());
    }
  }
  EXPECT_GE(files, 7);
}

TEST(RunConfig, PrintsWhatItReads) {
  RunConfig config, again, defaults;
  config.data.train = "packed";
  config.train.precision = Precision::bf16;
  config.data.documents = DocumentMode::packed;
  config.model.layers = 3;
  const std::string text = config::print_documented(config::describing(config), config::describing(defaults));
  EXPECT_NE(text.find("  # decoder layers (between 1 and 65536; default 12)\n  layers: 3\n"),
            std::string::npos)
      << text;
  // Also of keys that the defaults themselves do not use.
  EXPECT_NE(text.find("slope of the first ALiBi head (greater than 0; default 1)"), std::string::npos)
      << text;
  config::load_text(text, "printed", {}, config::describing(again));
  EXPECT_TRUE(config::differences(config::describing(config), config::describing(again)).empty());
}

}  // namespace
}  // namespace asplash::train
