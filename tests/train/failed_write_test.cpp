// Disk full, read-only folder, file limit: training says so, keeps the old checkpoints, goes on or stops.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "asplash/base/text.h"
#include "train/limits.h"
#include "train/small_run.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

/// Below a checkpoint's files and above metrics.jsonl and train.log of these runs.
constexpr rlim_t kLimit = 48 << 10;

const std::vector<std::string> kContinue = {"train.checkpoint_every=5"};
const std::vector<std::string> kStop = {"train.checkpoint_every=5", "train.on_failed_write=stop"};

/// Lets a run of 5 steps be the beginning of one of 20.
std::vector<std::string> plus_common(std::vector<std::string> overrides) {
  overrides.insert(overrides.end(), {"optim.schedule=constant", "data.validation=\"\""});
  return overrides;
}

class FailedWrite : public ::testing::Test {
 protected:
  FailedWrite() { small_.train(plus_common({"train.steps=5"})); }

  std::string fails(const std::vector<std::string>& overrides) const {
    const std::string error = error_of([&] { small_.train(plus_common(overrides)); });
    EXPECT_NE(error, "") << "trained to the end without a checkpoint";
    expect_the_old_one_and_nothing_half(error);
    return error;
  }

  void expect_the_old_one_and_nothing_half(const std::string& error) const {
    EXPECT_NE(error.find("the newest whole checkpoint is " + small_.checkpoint(5)), std::string::npos)
        << error;
    const checkpoint::Listing found = checkpoint::list(small_.run_folder());
    EXPECT_EQ(found.complete, std::vector<std::string>{small_.checkpoint(5)});
    EXPECT_TRUE(found.passed_over.empty()) << join(found.passed_over, "\n");
    EXPECT_NE(small_.log().find("error: " + error), std::string::npos) << "not in train.log: " << error;
  }

  void expect_to_go_on_as_if_nothing_had_been() const {
    small_.train(plus_common({}));
    const SmallRun straight;
    straight.train(plus_common({}));
    expect_same_checkpoints(straight.checkpoint(20), small_.checkpoint(20));
    EXPECT_EQ(reproducible_metrics(straight.run_folder()), reproducible_metrics(small_.run_folder()));
  }

  size_t steps_in_metrics() const {
    size_t steps = 0;
    for (const auto& line : metrics_of(small_.run_folder())) steps += line.contains("event") ? 0 : 1;
    return steps;
  }

  SmallRun small_;
};

TEST_F(FailedWrite, AtTheFileLimitItGoesOnAndSaysSo) {
  {
    const FileSizeLimit limit(kLimit);
    const std::string error = fails(kContinue);
    EXPECT_NE(error.find("File too large"), std::string::npos) << error;
    EXPECT_NE(error.find(small_.checkpoint(20)), std::string::npos) << error;
  }
  EXPECT_EQ(steps_in_metrics(), 20u);
  const std::string log = small_.log();
  for (const int64_t step : {10, 15}) {
    const size_t at =
        log.find("warning a checkpoint could not be saved: cannot write " + small_.checkpoint(step));
    ASSERT_NE(at, std::string::npos) << log;
    EXPECT_NE(log.find("training goes on", at), std::string::npos);
  }
  expect_to_go_on_as_if_nothing_had_been();
}

TEST_F(FailedWrite, AtTheFileLimitItStopsWhereAskedTo) {
  {
    const FileSizeLimit limit(kLimit);
    const std::string error = fails(kStop);
    EXPECT_EQ(error.find("training stopped: a checkpoint could not be saved"), 0u) << error;
  }
  EXPECT_LT(steps_in_metrics(), 20u);
  expect_to_go_on_as_if_nothing_had_been();
}

TEST_F(FailedWrite, AReadOnlyFolderIsNamed) {
  for (const auto& overrides : {kContinue, kStop}) {
    const ReadOnlyFolder checkpoints(small_.run_folder() + "/checkpoints");
    const std::string error = fails(overrides);
    EXPECT_NE(error.find("Permission denied"), std::string::npos) << error;
  }
  expect_to_go_on_as_if_nothing_had_been();
}

TEST_F(FailedWrite, AReadOnlyRunFolderIsRefusedAtTheStart) {
  const std::string before = read_file(small_.run_folder() + "/metrics.jsonl");
  {
    const ReadOnlyFolder run(small_.run_folder());
    const std::string error = error_of([&] { small_.train(); });
    EXPECT_NE(error.find("cannot write into the run folder: " + small_.run_folder()), std::string::npos)
        << error;
  }
  EXPECT_EQ(read_file(small_.run_folder() + "/metrics.jsonl"), before);
  expect_to_go_on_as_if_nothing_had_been();
}

TEST(FullDisk, KeepsTheOldCheckpointsAndGoesOnOnceThereIsRoom) {
  const SmallRun small;
  fs::create_directories(small.run_folder());
  // A checkpoint takes about 290 KB: two fit, the third does not, while it is written beside them.
  const bool permitted = on_small_file_system(small.run_folder(), "800k", [&] {
    const std::vector<std::string> overrides = {"train.checkpoint_every=5", "train.steps=30"};
    const std::string error = error_of([&] { small.train(overrides); });
    EXPECT_NE(error.find("No space left on device"), std::string::npos) << error;
    const checkpoint::Listing found = checkpoint::list(small.run_folder());
    EXPECT_EQ(found.complete, (std::vector<std::string>{small.checkpoint(5), small.checkpoint(10)}));
    EXPECT_TRUE(found.passed_over.empty()) << join(found.passed_over, "\n");

    resize_file_system(small.run_folder(), "4m");
    EXPECT_EQ(small.train(overrides), 0);
    const SmallRun straight;
    straight.train({"train.steps=30"});
    expect_same_checkpoints(straight.checkpoint(30), small.checkpoint(30));
    EXPECT_EQ(reproducible_metrics(straight.run_folder()), reproducible_metrics(small.run_folder()));
  });
  if (!permitted) GTEST_SKIP() << "mounting a small file system is not permitted here";
}

TEST(FullDisk, AFullyWrittenDiskAtTheStartIsAnError) {
  const SmallRun small;
  fs::create_directories(small.run_folder());
  const bool permitted = on_small_file_system(small.run_folder(), "4k", [&] {
    const std::string error = error_of([&] { small.train(); });
    EXPECT_NE(error.find("No space left on device"), std::string::npos) << error;
    EXPECT_NE(error.find(small.run_folder()), std::string::npos) << error;
  });
  if (!permitted) GTEST_SKIP() << "mounting a small file system is not permitted here";
}

}  // namespace
}  // namespace asplash::train
