// A run that was interrupted and resumed is the run that was not.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <memory>

#include "asplash/base/text.h"
#include "train/small_run.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

/// The second half of a run is lost, with its checkpoints, and trained again from the one of step 10.
void lose_the_second_half(const SmallRun& small) {
  for (const int64_t step : {12, 15, 18, 20}) fs::remove_all(small.checkpoint(step));
  ASSERT_EQ(checkpoint::Reader(small.run_folder()).state().step, 10);
}

TEST(Resume, GivesTheSameWeightsMomentsCountersAndMetrics) {
  const std::vector<std::vector<std::string>> variants = {
      {"data.documents=stream", "optim.schedule=cosine"},
      {"data.documents=packed", "optim.schedule=linear", "train.micro_batch=16"},
      {"data.shuffle=false", "optim.schedule=warmup_stable_decay", "model.attention.function=softmax",
       "train.log_every=7"},
  };
  for (std::vector<std::string> overrides : variants) {
    const SmallRun straight, halves;
    overrides.emplace_back("train.evaluate_every=6");
    straight.train(overrides);
    overrides.insert(overrides.end(), {"train.checkpoint_every=5", "train.keep_checkpoints=20"});
    halves.train(overrides);
    lose_the_second_half(halves);
    halves.train(overrides);
    expect_same_checkpoints(straight.checkpoint(20), halves.checkpoint(20));
    EXPECT_EQ(reproducible_metrics(straight.run_folder()), reproducible_metrics(halves.run_folder()));
  }
}

TEST(Resume, OtherSeedsGiveOtherRuns) {
  const SmallRun one, two;
  one.train({"train.steps=3"});
  two.train({"train.steps=3", "train.seed=2"});
  EXPECT_NE(hash_file(one.checkpoint(3) + "/model.safetensors"),
            hash_file(two.checkpoint(3) + "/model.safetensors"));
  EXPECT_NE(reproducible_metrics(one.run_folder()), reproducible_metrics(two.run_folder()));
}

/// Large enough that libtorch and our kernels share the work among threads: width 32 is not.
TEST(Resume, TheNumberOfThreadsChangesNoBit) {
  const int before = at::get_num_threads();
  for (const char* function : {"entmax", "softmax"}) {
    std::unique_ptr<SmallRun> first;
    for (const char* threads : {"1", "2", "3", "7"}) {
      auto small = std::make_unique<SmallRun>();
      small->train({"train.steps=4", "train.evaluate_every=2", "model.width=128", "model.heads=4",
                    "model.mlp_width=384", "data.context=128", "train.tokens_per_step=2048",
                    str("model.attention.function=", function), str("train.threads=", threads)});
      if (!first) {
        first = std::move(small);
        continue;
      }
      SCOPED_TRACE(str(function, ", ", threads, " threads"));
      expect_same_checkpoints(first->checkpoint(4), small->checkpoint(4));
      EXPECT_EQ(reproducible_metrics(first->run_folder()), reproducible_metrics(small->run_folder()));
    }
  }
  at::set_num_threads(before);
}

TEST(Resume, TrainingDrawsFromNoGeneratorWhoseStateWouldHaveToBeSaved) {
  const SmallRun small;
  const at::Tensor before = at::detail::getDefaultCPUGenerator().get_state();
  small.train({"train.evaluate_every=6"});
  EXPECT_TRUE(at::equal(at::detail::getDefaultCPUGenerator().get_state(), before));
}

TEST(Resume, TheBestScoreSurvivesAndItsCheckpointStays) {
  const SmallRun small;
  // A rate of 0 from the first step on: the first evaluation stays the best.
  const std::vector<std::string> still = {"optim.lr=1e-30", "train.evaluate_every=3",
                                          "train.checkpoint_every=2", "train.keep_checkpoints=1"};
  small.train(still);
  const auto state = checkpoint::Reader(small.run_folder()).state();
  EXPECT_EQ(state.best_step, 3);
  EXPECT_EQ(checkpoint::list(small.run_folder()).complete,
            (std::vector<std::string>{small.checkpoint(3), small.checkpoint(20)}));

  std::vector<std::string> longer = still;
  longer.insert(longer.end(), {"train.steps=24", "optim.schedule=cosine"});
  small.train(longer);
  EXPECT_EQ(checkpoint::Reader(small.run_folder()).state().best_step, 3);
  EXPECT_EQ(checkpoint::list(small.run_folder()).complete,
            (std::vector<std::string>{small.checkpoint(3), small.checkpoint(24)}));

  // Measured on something else, the old score means nothing.
  longer.insert(longer.end(), {"train.steps=27", "train.evaluate_tokens=256", "train.keep_best=false"});
  small.train(longer);
  EXPECT_EQ(checkpoint::Reader(small.run_folder()).state().best_step, 27);
  EXPECT_NE(small.log().find("it is forgotten"), std::string::npos);
  EXPECT_EQ(checkpoint::list(small.run_folder()).complete, std::vector<std::string>{small.checkpoint(27)});
}

TEST(Resume, SaysWhatItPassedOverAndWhatItCleaned) {
  const SmallRun small;
  small.train({"train.checkpoint_every=10"});
  fs::resize_file(small.checkpoint(20) + "/optimizer.safetensors", 40);
  fs::create_directories(small.checkpoint(30) + ".tmp");
  small.train({"train.checkpoint_every=10"});
  const std::string log = small.log();
  EXPECT_NE(
      log.find("checkpoint passed over: " + small.checkpoint(20) + ": optimizer.safetensors has 40 bytes"),
      std::string::npos)
      << log;
  EXPECT_NE(log.find("removed " + small.checkpoint(30) + ".tmp: "), std::string::npos) << log;
  EXPECT_NE(log.find("resumed from " + small.checkpoint(10)), std::string::npos) << log;
  EXPECT_FALSE(fs::exists(small.checkpoint(30) + ".tmp"));
  const SmallRun straight;
  straight.train();
  expect_same_checkpoints(straight.checkpoint(20), small.checkpoint(20));
}

TEST(Resume, NamesEveryChangeAndRefusesAnotherRun) {
  const SmallRun small;
  small.train({"train.steps=3"});
  for (const std::string change : {"model.attention.alpha=1.3", "model.positions.kind=alibi", "train.seed=2",
                                   "train.tokens_per_step=256", "train.micro_batch=8", "train.precision=bf16",
                                   "data.context=16", "data.shuffle=false", "data.documents=packed",
                                   "optim.lr=0.001", "optim.beta2=0.9", "optim.schedule=linear"}) {
    const std::string key = change.substr(0, change.find('=')), value = change.substr(change.find('=') + 1);
    const std::string error = error_of([&] {
      small.train({"train.steps=6", "train.log_every=3", "train.keep_checkpoints=7", change});
    });
    EXPECT_NE(error.find(key + ": "), std::string::npos) << error;
    EXPECT_NE(error.find(" -> " + value), std::string::npos) << error;
    EXPECT_NE(error.find("--allow-changes"), std::string::npos) << error;
    EXPECT_EQ(error.find("train.log_every"), std::string::npos) << "harmless: " << error;
  }
  EXPECT_EQ(checkpoint::Reader(small.run_folder()).state().step, 3);
  EXPECT_EQ(small.train({"train.steps=6", "train.log_every=3", "train.keep_checkpoints=7"}), 0);
  for (const char* said : {"changed since the checkpoint: train.steps: 3 -> 6", "train.log_every: 1 -> 3",
                           "train.keep_checkpoints: 2 -> 7"}) {
    EXPECT_NE(small.log().find(said), std::string::npos) << said;
  }
}

TEST(Resume, GoesOnWithAllowedChangesAndListsThem) {
  const SmallRun small;
  small.train({"train.steps=3"});
  TrainOptions options = small.options({"train.steps=6", "optim.lr=0.001", "model.attention.alpha=1.3"});
  options.allow_changes = true;
  EXPECT_EQ(run(options), 0);
  for (const char* said : {"as --allow-changes allows: optim.lr: 0.01 -> 0.001",
                           "as --allow-changes allows: model.attention.alpha: 1.5 -> 1.3"}) {
    EXPECT_NE(small.log().find(said), std::string::npos) << said << "\n" << small.log();
  }
  options.overrides = {"train.steps=9", "optim.lr=0.001", "model.layers=1"};
  const std::string error = error_of([&] { run(options); });
  EXPECT_NE(error.find("belongs to no parameter of the model"), std::string::npos) << error;
}

TEST(Resume, DataIsKnownByItsContentNotByItsPlace) {
  const SmallRun small;
  small.train({"train.steps=3"});
  fs::copy(small.folder() / "train", small.folder() / "moved", fs::copy_options::recursive);
  EXPECT_EQ(small.train({"train.steps=6", "data.train=" + (small.folder() / "moved")}), 0);
  EXPECT_NE(small.log().find("changed since the checkpoint: data.train: "), std::string::npos);

  std::vector<int32_t> others(2669, 7);
  small.write_train(others);
  const std::string error = error_of([&] {
    small.train({"train.steps=9", "data.train=" + (small.folder() / "train")});
  });
  EXPECT_NE(error.find((small.folder() / "train/manifest.json") + " holds other tokens"), std::string::npos)
      << error;
}

}  // namespace
}  // namespace asplash::train
