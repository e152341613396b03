#include "asplash/train/setup.h"

#include <gtest/gtest.h>

#include "asplash/base/error.h"
#include "asplash/config/config.h"
#include "asplash/train/tables.h"
#include "train/small_run.h"

namespace asplash::train {
namespace {

TrainOptions options_of(const SmallRun& small, std::vector<std::string> overrides) {
  TrainOptions options;
  options.config_file = small.config_file();
  options.overrides = std::move(overrides);
  return options;
}

std::string error_of(const SmallRun& small, std::vector<std::string> overrides) {
  const TrainOptions options = options_of(small, std::move(overrides));
  try {
    prepare(options, load_config(options));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(SetupTest, DecidesWhatTheConfigurationLeavesOpen) {
  const SmallRun small;
  const TrainOptions options = options_of(small, {"train.micro_batch=0", "model.head_dim=0"});
  const train::Setup setup = prepare(options, load_config(options));
  EXPECT_EQ(setup.config.model.vocab_size, kSmallVocab);
  EXPECT_EQ(setup.config.model.kv_heads, 2);
  EXPECT_EQ(setup.config.model.head_dim, 16);
  EXPECT_EQ(setup.config.train.micro_batch, 16);
  EXPECT_FALSE(setup.bf16);
  EXPECT_GT(setup.samples_per_epoch(), 16);
}

TEST(SetupTest, TheResolvedConfigurationReadsBack) {
  const SmallRun small;
  const TrainOptions options = options_of(small, {"optim.lr=0.002"});
  train::Setup setup = prepare(options, load_config(options));
  const std::string text = resolved_config_text(setup);
  EXPECT_EQ(text.rfind("# asplash ", 0), 0u);
  EXPECT_NE(text.find("--set optim.lr=0.002"), std::string::npos);
  RunConfig again;
  config::load_text(text, "resolved", {}, config::describing(again));
  EXPECT_TRUE(config::differences(config::describing(setup.config), config::describing(again)).empty());
}

TEST(SetupTest, AVocabularyMustHoldTheTokenizers) {
  const SmallRun small;
  EXPECT_EQ(error_of(small, {"model.vocab_size=64"}), "");
  EXPECT_EQ(error_of(small, {"model.vocab_size=128"}), "");
  const std::string error = error_of(small, {"model.vocab_size=63"});
  EXPECT_NE(error.find("63"), std::string::npos) << error;
  EXPECT_NE(error.find("64"), std::string::npos) << error;
}

TEST(SetupTest, RefusesSequencesAndStepsThatTheDataCannotFill) {
  const SmallRun small;
  const std::string context =
      error_of(small, {"data.context=100000", "train.tokens_per_step=100000", "train.micro_batch=1"});
  EXPECT_NE(context.find("data.context"), std::string::npos) << context;
  const std::string step = error_of(small, {"train.tokens_per_step=1280000"});
  EXPECT_NE(step.find("train.tokens_per_step"), std::string::npos) << step;
  EXPECT_NE(error_of(small, {"data.train=nowhere"}).find("nowhere"), std::string::npos);
  EXPECT_NE(error_of(small, {"train.device=cuda:99"}), "");
}

TEST(SetupTest, ADryRunShowsTheTablesAndWritesNothing) {
  const SmallRun small;
  TrainOptions options = options_of(small, {});
  options.dry_run = true;
  const std::string tables = start_tables(prepare(options, load_config(options)));
  for (const char* text :
       {"embeddings", "activations", "optimizer", "logits", "work a token", "FLOP", "tokens a step",
        "steps an epoch", "total tokens", "1.50-entmax, nape positions"}) {
    EXPECT_NE(tables.find(text), std::string::npos) << text << "\n" << tables;
  }
  options.overrides = {"optim.warmup_steps=100", "data.validation=", "train.evaluate_every=5"};
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  EXPECT_EQ(run(options), 0);
  const std::string warnings = testing::internal::GetCapturedStderr();
  EXPECT_NE(warnings.find("optim.warmup_steps (100) is above train.steps (20)"), std::string::npos)
      << warnings;
  EXPECT_NE(warnings.find("data.validation is empty"), std::string::npos) << warnings;
  EXPECT_NE(testing::internal::GetCapturedStdout().find("embeddings"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(small.run_folder()));
}

TEST(SetupTest, ADryRunNeedsNoDataIfTheVocabularyIsGiven) {
  const SmallRun small;
  TrainOptions options = options_of(small, {"data.train=nowhere", "model.vocab_size=1000"});
  options.dry_run = true;
  EXPECT_NE(start_tables(prepare(options, load_config(options))).find("nowhere"), std::string::npos);
  options.overrides.pop_back();
  EXPECT_THROW(prepare(options, load_config(options)), Error);
}

TEST(SetupTest, PrintsADocumentedConfiguration) {
  const SmallRun small;
  TrainOptions options = options_of(small, {"optim.beta2=0.98"});
  options.print_config = true;
  testing::internal::CaptureStdout();
  EXPECT_EQ(run(options), 0);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_NE(text.find("beta2: 0.98"), std::string::npos);
  EXPECT_NE(text.find("# "), std::string::npos);
}

}  // namespace
}  // namespace asplash::train
