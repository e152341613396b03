#include "asplash/train/train.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "asplash/base/error.h"
#include "asplash/checkpoint/checkpoint.h"
#include "train/small_run.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

std::vector<double> losses_of(const std::string& run_folder) {
  std::vector<double> losses;
  for (const auto& line : metrics_of(run_folder)) {
    if (!line.contains("event")) losses.push_back(line["loss"].get<double>());
  }
  return losses;
}

TEST(Train, LearnsAndLeavesEverythingInTheRunFolder) {
  const SmallRun small;
  ASSERT_EQ(small.train({"train.steps=60", "train.evaluate_every=30", "train.checkpoint_every=20"}), 0);
  const auto losses = losses_of(small.run_folder());
  ASSERT_EQ(losses.size(), 60u);
  EXPECT_NEAR(losses.front(), std::log(kSmallVocab), 0.3);
  EXPECT_LT(losses.back(), 0.6 * losses.front());

  std::vector<nlohmann::json> evaluations;
  for (const auto& line : metrics_of(small.run_folder())) {
    if (line.contains("event")) evaluations.push_back(line);
    const bool has_statistics = line.contains("zero_tile_share") && line.contains("mean_support");
    if (!line.contains("event")) {
      const auto step = line["step"].get<int64_t>();
      EXPECT_EQ(has_statistics, step == 1 || step % 5 == 0) << line;
    }
  }
  ASSERT_EQ(evaluations.size(), 2u);
  EXPECT_EQ(evaluations[1]["step"], 60);
  EXPECT_LT(evaluations[1]["loss"], evaluations[0]["loss"]);
  EXPECT_NEAR(std::log(evaluations[1]["perplexity"].get<double>()), evaluations[1]["loss"].get<double>(),
              1e-9);

  const std::string last = small.run_folder() + "/checkpoints/step_00000060";
  EXPECT_EQ(checkpoint::list(small.run_folder()).complete,
            (std::vector<std::string>{small.run_folder() + "/checkpoints/step_00000040", last}));
  const auto state = checkpoint::Reader(small.run_folder()).state();
  EXPECT_EQ(state.step, 60);
  EXPECT_EQ(state.tokens, 60 * 512);
  EXPECT_EQ(state.best_validation_loss, evaluations[1]["loss"].get<double>());
  EXPECT_EQ(read_file(last + "/config.yaml"), read_file(small.run_folder() + "/config.yaml"));
  EXPECT_NE(read_file(small.run_folder() + "/train.log").find("step 60/60"), std::string::npos);
  EXPECT_NE(read_file(small.run_folder() + "/config.yaml").find("--set train.steps=60"), std::string::npos);
}

TEST(Train, AccumulationChangesNothingButRounding) {
  const SmallRun one, four;
  one.train({"train.micro_batch=16"});
  four.train({"train.micro_batch=4"});
  const auto a = losses_of(one.run_folder()), b = losses_of(four.run_folder());
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5 * (i < 5 ? 1 : 10)) << i;
}

TEST(Train, LoggingLessOftenChangesNothing) {
  const SmallRun often, seldom;
  often.train();
  seldom.train({"train.log_every=7"});
  EXPECT_EQ(losses_of(often.run_folder()), losses_of(seldom.run_folder()));
}

TEST(Train, AFinishedRunHasNothingToDo) {
  const SmallRun small;
  small.train({"train.steps=3"});
  const auto before = read_file(small.run_folder() + "/metrics.jsonl");
  EXPECT_EQ(small.train({"train.steps=3"}), 0);
  EXPECT_EQ(read_file(small.run_folder() + "/metrics.jsonl"), before);
  EXPECT_THROW(small.train({"train.steps=3"}, "none"), Error);
}

TEST(Train, SavesTheStartOnDemandAndKeepsIt) {
  const SmallRun small;
  small.train({"train.steps=6", "train.checkpoint_at_start=true", "train.checkpoint_every=1",
               "train.keep_checkpoints=1"});
  const auto found = checkpoint::list(small.run_folder()).complete;
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(checkpoint::Reader(found[0]).state().step, 0);
  EXPECT_EQ(checkpoint::Reader(found[1]).state().step, 6);
}

TEST(Train, ASignalEndsTheStepSavesAndTheRunGoesOn) {
  const SmallRun small;
  std::thread sender([&] {
    while (metrics_of(small.run_folder()).size() < 3)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ::kill(::getpid(), SIGTERM);
  });
  EXPECT_EQ(small.train({"train.steps=100000", "train.log_every=3"}), 0);
  sender.join();
  const auto state = checkpoint::Reader(small.run_folder()).state();
  EXPECT_GE(state.step, 3);
  EXPECT_LT(state.step, 100000);
  EXPECT_EQ(losses_of(small.run_folder()).size(), static_cast<size_t>(state.step));
  EXPECT_EQ(small.train({str("train.steps=", state.step + 2)}), 0);
  EXPECT_EQ(checkpoint::Reader(small.run_folder()).state().step, state.step + 2);
}

}  // namespace
}  // namespace asplash::train
