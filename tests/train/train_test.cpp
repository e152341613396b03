#include "asplash/train/train.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "asplash/base/error.h"
#include "asplash/checkpoint/checkpoint.h"
#include "train/small_run.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

/// The whole content of a checkpoint's tensors.
std::map<std::string, at::Tensor> tensors_of(const std::string& checkpoint) {
  std::map<std::string, at::Tensor> all;
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    for (auto& [name, tensor] : checkpoint::read_safetensors(checkpoint + "/" + file).tensors)
      all[name] = tensor;
  }
  return all;
}

void expect_equal_tensors(const std::string& a, const std::string& b) {
  const auto left = tensors_of(a), right = tensors_of(b);
  ASSERT_EQ(left.size(), right.size());
  for (const auto& [name, tensor] : left) EXPECT_TRUE(at::equal(tensor, right.at(name))) << name;
}

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

TEST(Train, ResumingGivesTheSameWeightsAndMetrics) {
  for (const char* documents : {"data.documents=stream", "data.documents=packed"}) {
    const SmallRun straight, halves;
    straight.train({documents});
    // The second half is lost with its checkpoint, and trained again from the one of step 10.
    halves.train({documents, "train.checkpoint_every=10"});
    fs::remove_all(halves.run_folder() + "/checkpoints/step_00000020");
    halves.train({documents});

    expect_equal_tensors(straight.run_folder() + "/checkpoints/step_00000020",
                         halves.run_folder() + "/checkpoints/step_00000020");
    EXPECT_EQ(losses_of(straight.run_folder()), losses_of(halves.run_folder()));
  }
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

TEST(Train, RefusesToResumeAsAnotherRun) {
  const SmallRun small;
  small.train({"train.steps=3"});
  for (const std::string change : {"model.layers=1", "train.seed=2", "data.context=16", "data.shuffle=false",
                                   "data.documents=packed", "model.attention.alpha=1.3"}) {
    try {
      small.train({"train.steps=6", change});
      ADD_FAILURE() << "resumed with " << change;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(change.substr(0, change.find('='))), std::string::npos)
          << error.what();
    }
  }
  EXPECT_EQ(small.train({"train.steps=6", "optim.lr=0.001", "train.tokens_per_step=256"}), 0);
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
