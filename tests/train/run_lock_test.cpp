#include "asplash/train/run_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "train/small_run.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

TEST(RunLock, IsHeldByOneAndGivenBack) {
  const TemporaryFolder folder;
  const std::string run = folder / "new/run";
  {
    const RunLock lock(run);
    const std::string error = error_of([&] { const RunLock second(run); });
    EXPECT_NE(error.find("run folder " + run + " is in use by process " + str(::getpid()) + " on "),
              std::string::npos)
        << error;
  }
  EXPECT_FALSE(fs::exists(run + "/.lock"));
  const RunLock again(run);
}

TEST(RunLock, FoldersMadeForNothingGo) {
  const TemporaryFolder folder;
  { const RunLock lock(folder / "new/run/"); }
  EXPECT_FALSE(fs::exists(folder / "new"));
  {
    const RunLock lock(folder / "new/run");
    std::ofstream(folder / "new/notes.txt") << "mine";
  }
  EXPECT_FALSE(fs::exists(folder / "new/run"));
  EXPECT_TRUE(fs::exists(folder / "new/notes.txt"));
  { const RunLock lock(folder / "new"); }
  EXPECT_TRUE(fs::exists(folder / "new/notes.txt"));
}

TEST(RunLock, TakesOverTheFileOfAKilledProcess) {
  const TemporaryFolder folder;
  std::ofstream(folder / ".lock") << "999999 some-other-host-with-a-long-name\n";
  const RunLock lock(folder.path());
  const std::string holder = read_file(folder / ".lock");
  EXPECT_EQ(holder.find(str(::getpid(), " ")), 0u) << holder;
  EXPECT_EQ(holder.find("some-other"), std::string::npos) << holder;
}

TEST(RunLock, KeepsASecondTrainingOutAndTouchesNothing) {
  const SmallRun small;
  small.train({"train.steps=2"});
  const std::string before = small.log();
  const RunLock lock(small.run_folder());
  EXPECT_NE(error_of([&] { small.train(); }).find("is in use by process"), std::string::npos);
  EXPECT_EQ(small.log(), before);
}

}  // namespace
}  // namespace asplash::train
