#include <gtest/gtest.h>

#include "checkpoint/fixtures.h"

namespace asplash::checkpoint {
namespace {

namespace fs = std::filesystem;

class ListingTest : public ::testing::Test {
 protected:
  std::string run() const { return folder_.path(); }
  std::string path(int64_t step) const { return path_of_step(run(), step); }
  void save_steps(const std::vector<int64_t>& steps) const {
    for (const int64_t step : steps) save(path(step), some_contents(folder_, step));
  }
  void damage(int64_t step) const { fs::resize_file(path(step) + "/model.safetensors", 20); }

  TemporaryFolder folder_;
};

TEST_F(ListingTest, NamesStepsSortably) {
  EXPECT_EQ(path_of_step("runs/a", 200), "runs/a/checkpoints/step_00000200");
  EXPECT_EQ(path_of_step("a", 1234567890), "a/checkpoints/step_1234567890");
}

TEST_F(ListingTest, AnEmptyRunHasNone) {
  EXPECT_TRUE(list(run()).complete.empty());
  EXPECT_TRUE(newest(run() + "/nothing").complete.empty());
}

TEST_F(ListingTest, OldestFirstByNumber) {
  save_steps({200, 99999999, 100000000, 3});
  EXPECT_EQ(list(run()).complete,
            (std::vector<std::string>{path(3), path(200), path(99999999), path(100000000)}));
  EXPECT_EQ(newest(run()).complete, std::vector<std::string>{path(100000000)});
}

TEST_F(ListingTest, PassesOverDamagedAndUnfinishedOnes) {
  save_steps({1, 2, 3});
  damage(3);
  fs::create_directories(path(4) + ".tmp");
  fs::create_directories(run() + "/checkpoints/notes");
  fs::create_directories(path(5));
  const Listing found = newest(run());
  EXPECT_EQ(found.complete, std::vector<std::string>{path(2)});
  ASSERT_EQ(found.passed_over.size(), 3u);
  EXPECT_EQ(found.passed_over[0].find(path(4) + ".tmp"), 0u);
  EXPECT_EQ(found.passed_over[1].find(path(5)), 0u);
  EXPECT_NE(found.passed_over[2].find("model.safetensors"), std::string::npos);
}

TEST_F(ListingTest, PassesOverWhatWasRenamed) {
  save_steps({1, 2});
  fs::rename(path(1), path(7));
  const Listing found = newest(run());
  EXPECT_EQ(found.complete, std::vector<std::string>{path(2)});
  ASSERT_EQ(found.passed_over.size(), 1u);
  EXPECT_EQ(found.passed_over[0], path(7) + ": it holds step 1: it was renamed or copied");
}

TEST_F(ListingTest, PruningKeepsTheNewest) {
  save_steps({1, 2, 3, 4});
  EXPECT_EQ(prune(run(), 2), (std::vector<std::string>{path(2), path(1)}));
  EXPECT_EQ(list(run()).complete, (std::vector<std::string>{path(3), path(4)}));
  EXPECT_TRUE(prune(run(), 2).empty());
  EXPECT_FALSE(fs::exists(path(1) + ".tmp"));
}

TEST_F(ListingTest, PruningNeverRemovesTheOnlyWholeOne) {
  save_steps({1, 2, 3});
  damage(2);
  damage(3);
  EXPECT_TRUE(prune(run(), 1).empty());
  EXPECT_EQ(list(run()).complete, std::vector<std::string>{path(1)});
}

TEST_F(ListingTest, PruningCountsWholeOnesAlone) {
  save_steps({1, 2, 3, 4});
  damage(3);
  EXPECT_EQ(prune(run(), 2), std::vector<std::string>{path(1)});
  EXPECT_EQ(list(run()).complete, (std::vector<std::string>{path(2), path(4)}));
}

TEST_F(ListingTest, PruningGoesOnBelowADamagedNewest) {
  save_steps({1, 2, 3, 4});
  damage(4);
  EXPECT_EQ(prune(run(), 2), std::vector<std::string>{path(1)});
  EXPECT_TRUE(fs::exists(path(4)));
}

TEST_F(ListingTest, PruningKeepsTheBest) {
  save_steps({1, 2, 3, 4, 5});
  EXPECT_EQ(prune(run(), 2, 2), (std::vector<std::string>{path(3), path(1)}));
  EXPECT_EQ(list(run()).complete, (std::vector<std::string>{path(2), path(4), path(5)}));
  EXPECT_EQ(prune(run(), 2, 5), std::vector<std::string>{path(2)}) << "the best is among the last two";
  EXPECT_TRUE(prune(run(), 2, 3).empty()) << "a best one that is gone";
}

TEST_F(ListingTest, CleansWhatAKilledProcessLeftAndNothingElse) {
  save_steps({1, 2});
  for (const std::string name :
       {"/checkpoints/step_00000003.tmp", "/checkpoints/step_00000002.replaced.tmp"}) {
    fs::create_directories(run() + name);
    write_file_atomically(run() + name + "/model.safetensors", "half");
  }
  for (const char* name : {"/metrics.jsonl.tmp-17", "/config.yaml.tmp-4"})
    write_file_atomically(run() + name, "half");
  for (const char* name :
       {"/notes.tmp-17", "/metrics.jsonl.tmp-x", "/checkpoints/mine.tmp", "/checkpoints/step_x.tmp"})
    write_file_atomically(run() + name, "mine");
  const auto cleaned = clean_leftovers(run());
  EXPECT_EQ(cleaned.size(), 4u);
  for (const std::string& line : cleaned) EXPECT_EQ(line.find("removed " + run()), 0u) << line;
  for (const char* name : {"/checkpoints/step_00000003.tmp", "/checkpoints/step_00000002.replaced.tmp",
                           "/metrics.jsonl.tmp-17", "/config.yaml.tmp-4"})
    EXPECT_FALSE(fs::exists(run() + name)) << name;
  for (const char* name :
       {"/notes.tmp-17", "/metrics.jsonl.tmp-x", "/checkpoints/mine.tmp", "/checkpoints/step_x.tmp"})
    EXPECT_TRUE(fs::exists(run() + name)) << name;
  EXPECT_EQ(list(run()).complete, (std::vector<std::string>{path(1), path(2)}));
  EXPECT_TRUE(clean_leftovers(run()).empty());
  EXPECT_TRUE(clean_leftovers(run() + "/nothing").empty());
}

TEST_F(ListingTest, ACheckpointAsideWithoutSuccessorComesBack) {
  save_steps({1, 2});
  fs::rename(path(2), path(2) + ".replaced.tmp");
  ASSERT_EQ(clean_leftovers(run()).size(), 1u);
  EXPECT_EQ(newest(run()).complete, std::vector<std::string>{path(2)});
}

TEST_F(ListingTest, PruningKeepsTheStart) {
  save_steps({0, 1, 2});
  EXPECT_EQ(prune(run(), 1), std::vector<std::string>{path(1)});
  EXPECT_EQ(list(run()).complete, (std::vector<std::string>{path(0), path(2)}));
}

}  // namespace
}  // namespace asplash::checkpoint
