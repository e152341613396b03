#include "asplash/train/run_folder.h"

#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint/fixtures.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

class RunFolderTest : public ::testing::Test {
 protected:
  std::string run() const { return folder_ / "run"; }
  std::string save_step(int64_t step, const std::string& run_folder) const {
    const std::string path = checkpoint::path_of_step(run_folder, step);
    checkpoint::save(path, checkpoint::some_contents(folder_, step));
    return path;
  }
  std::string error_of(const std::string& resume, bool overwrite = false) const {
    try {
      choose_start(run(), resume, overwrite);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
};

TEST_F(RunFolderTest, AutoBeginsAnewWhereThereIsNothing) {
  EXPECT_EQ(choose_start(run(), "auto", false).checkpoint, "");
  fs::create_directories(run() + "/checkpoints/step_00000003.tmp");
  const Start start = choose_start(run(), "auto", false);
  EXPECT_EQ(start.checkpoint, "");
  EXPECT_EQ(start.passed_over.size(), 1u);
}

TEST_F(RunFolderTest, AutoTakesTheNewestWholeOneAndSaysWhatItPassedOver) {
  const std::string second = save_step(2, run()), third = save_step(3, run());
  EXPECT_EQ(choose_start(run(), "auto", false).checkpoint, third);
  fs::resize_file(third + "/model.safetensors", 10);
  const Start start = choose_start(run(), "auto", false);
  EXPECT_EQ(start.checkpoint, second);
  ASSERT_EQ(start.passed_over.size(), 1u);
  EXPECT_NE(start.passed_over[0].find("model.safetensors"), std::string::npos);
  fs::remove_all(second);
  EXPECT_NE(error_of("auto").find("no whole checkpoint"), std::string::npos);
}

TEST_F(RunFolderTest, NoneWantsAnEmptyFolderOrOverwrite) {
  EXPECT_EQ(error_of("none"), "");
  save_step(2, run());
  EXPECT_NE(error_of("none").find("--overwrite"), std::string::npos);
  EXPECT_EQ(error_of("none", true), "");
  EXPECT_NE(error_of("auto", true), "");
}

TEST_F(RunFolderTest, APathMustBeAWholeCheckpointAndTheLast) {
  const std::string first = save_step(1, run()), second = save_step(2, run());
  EXPECT_EQ(choose_start(run(), second, false).checkpoint, second);
  EXPECT_NE(error_of(first).find(second), std::string::npos) << error_of(first);
  const std::string other = save_step(7, folder_ / "other");
  EXPECT_EQ(choose_start(run(), folder_ / "other", false).checkpoint, other);
  fs::remove(other + "/trainer_state.json");
  EXPECT_NE(error_of(other).find("trainer_state.json"), std::string::npos);
  EXPECT_NE(error_of(folder_ / "nothing"), "");
}

TEST_F(RunFolderTest, OverwritingForgetsTheRunAndNothingElse) {
  save_step(2, run());
  std::ofstream(run() + "/metrics.jsonl") << "{}\n";
  for (const char* log : {"train.log", "train.1.log", "train.3.log"})
    std::ofstream(run() + "/" + log) << "x\n";
  std::ofstream(run() + "/notes.txt") << "mine";
  prepare_run_folder(run(), false);
  EXPECT_TRUE(fs::exists(run() + "/metrics.jsonl"));
  prepare_run_folder(run(), true);
  EXPECT_FALSE(fs::exists(run() + "/metrics.jsonl"));
  EXPECT_FALSE(fs::exists(run() + "/checkpoints"));
  for (const char* log : {"/train.log", "/train.1.log", "/train.3.log"})
    EXPECT_FALSE(fs::exists(run() + log));
  EXPECT_TRUE(fs::exists(run() + "/notes.txt"));
}

TEST_F(RunFolderTest, NamesAFolderItCannotMake) {
  std::ofstream(folder_ / "file") << "x";
  EXPECT_THROW(prepare_run_folder(folder_ / "file/run", false), Error);
}

}  // namespace
}  // namespace asplash::train
