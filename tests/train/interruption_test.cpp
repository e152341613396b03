// Signals to the real program: SIGKILL and SIGTERM at random moments of a run that saves continuously, a
// second signal, a second process in the same run folder.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <thread>

#include "asplash/base/text.h"
#include "train/small_run.h"

extern char** environ;

namespace asplash::train {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

/// A running asplash-train; killed and waited for by the destructor.
class TrainingProcess {
 public:
  TrainingProcess(const SmallRun& small, const std::vector<std::string>& overrides)
      : said_(small.folder() / "said") {
    std::vector<std::string> words = {std::string(ASPLASH_BIN_DIR) + "/asplash-train", "--config",
                                      small.config_file()};
    for (const std::string& text : overrides) words.insert(words.end(), {"--set", text});
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, said_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int failed = posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) fail("cannot start ", argv[0], ": ", std::strerror(failed));
  }
  ~TrainingProcess() {
    send(SIGKILL);
    wait();
  }
  TrainingProcess(const TrainingProcess&) = delete;
  TrainingProcess& operator=(const TrainingProcess&) = delete;

  pid_t pid() const { return pid_; }
  std::string said() const { return read_file(said_); }
  /// It has cleaned up what the one before it left, and done a step.
  bool has_trained() const { return said().find("\nstep ") != std::string::npos; }
  void send(int signal) const {
    if (!ended_) ::kill(pid_, signal);
  }
  /// Exit status, or 128 + signal.
  int wait() {
    if (ended_) return status_;
    int status = 0;
    waitpid(pid_, &status, 0);
    ended_ = true;
    return status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  bool wait_for(const std::function<bool()>& condition) const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(milliseconds(2));
    }
    return true;
  }

 private:
  std::string said_;
  pid_t pid_ = -1;
  bool ended_ = false;
  int status_ = -1;
};

/// Steps that metrics.jsonl has whole lines of.
int64_t last_step_in_metrics(const std::string& run_folder) {
  int64_t last = 0;
  std::ifstream file(run_folder + "/metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object()) last = json.value("step", last);
  }
  return last;
}

int64_t from_environment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoll(text) : otherwise;
}

/// A run that saves after every step and could go on for ever: the rate does not depend on train.steps.
std::vector<std::string> endless(int64_t steps = 1'000'000) {
  return {str("train.steps=", steps), "train.checkpoint_every=1", "train.evaluate_every=7",
          "optim.schedule=constant"};
}

class Interruption : public ::testing::Test {
 protected:
  /// Threads that wait by spinning would take the processors from the processes that are tested.
  Interruption() { ::setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0); }

  int64_t newest_step() const {
    const auto found = checkpoint::newest(small_.run_folder()).complete;
    return found.empty() ? 0 : checkpoint::Reader(found.front()).state().step;
  }

  /// Every folder with a checkpoint's name is whole; says whether a save was cut off.
  bool expect_nothing_torn() const {
    bool in_a_save = false;
    for (const std::string& reason : checkpoint::list(small_.run_folder()).passed_over) {
      EXPECT_NE(reason.find(".tmp: its writing did not end"), std::string::npos) << reason;
      in_a_save = true;
    }
    return in_a_save;
  }

  void expect_no_leftovers() const {
    for (const auto& entry : fs::recursive_directory_iterator(small_.run_folder())) {
      const std::string name = entry.path().filename().string();
      EXPECT_EQ(name.find(".tmp"), std::string::npos) << entry.path();
      EXPECT_NE(name, ".lock");
    }
  }

  SmallRun small_;
};

TEST_F(Interruption, TheEndOfWhatReadsTheLogIsNotThatOfTheRun) {
  const std::string command = str("'", ASPLASH_BIN_DIR, "/asplash-train' --config '", small_.config_file(),
                                  "' --set train.steps=40 2>&1 | head -n 3 >/dev/null");
  ASSERT_EQ(std::system(command.c_str()), 0);
  EXPECT_EQ(newest_step(), 40);
}

/// Lets a process come to a random moment: a quarter of them while it starts and cleans up, the others while
/// it trains and saves. False if it did not come to train.
bool wait_for_a_moment(const TrainingProcess& process, milliseconds startup, std::mt19937_64& random) {
  constexpr int64_t kSaving = 250;  // milliseconds of one save after the other
  const bool starting = random() % 4 == 0;
  if (!starting && !process.wait_for([&] { return process.has_trained(); })) return false;
  const int64_t most = starting ? startup.count() : kSaving;
  std::this_thread::sleep_for(std::chrono::microseconds(random() % static_cast<uint64_t>(1000 * most)));
  return true;
}

struct Tally {
  int64_t kills = 0, in_a_save = 0, terminations = 0;
};

TEST_F(Interruption, EndedAtRandomMomentsItIsTheRunThatWasNot) {
  const int64_t wanted = from_environment("ASPLASH_KILLS", 8);
  const int64_t seed = from_environment("ASPLASH_KILL_SEED", std::random_device()());
  std::mt19937_64 random(static_cast<uint64_t>(seed));
  SCOPED_TRACE(str("ASPLASH_KILL_SEED=", seed));
  const std::string run = small_.run_folder();

  const auto begin = std::chrono::steady_clock::now();
  {
    TrainingProcess first(small_, endless());
    ASSERT_TRUE(first.wait_for([&] { return fs::exists(small_.checkpoint(2)); })) << first.said();
    first.send(SIGKILL);
    EXPECT_EQ(first.wait(), 128 + SIGKILL);
  }
  const auto startup = std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - begin);

  Tally tally;
  int64_t newest = newest_step();
  while (tally.kills < wanted) {
    TrainingProcess process(small_, endless());
    ASSERT_TRUE(wait_for_a_moment(process, startup, random)) << process.said();
    const int signal = random() % 8 == 0 ? SIGTERM : SIGKILL;
    process.send(signal);
    const int status = process.wait();
    if (signal == SIGTERM && status == 0) {
      EXPECT_EQ(newest_step(), last_step_in_metrics(run));
    } else {
      // Also SIGTERM, before the program has set its handlers.
      ASSERT_EQ(status, 128 + signal) << process.said();
    }
    (signal == SIGKILL ? tally.kills : tally.terminations) += 1;
    // What lies there unfinished is this process's own only if it came to clean up before.
    tally.in_a_save += expect_nothing_torn() && process.has_trained() ? 1 : 0;
    ASSERT_GE(newest_step(), newest) << "a whole checkpoint was lost";
    newest = newest_step();
  }

  const int64_t steps = newest + 20;
  TrainingProcess last(small_, endless(steps));
  ASSERT_EQ(last.wait(), 0) << last.said();
  expect_no_leftovers();
  const SmallRun straight;
  ASSERT_EQ(straight.train(endless(steps)), 0);
  expect_same_checkpoints(straight.checkpoint(steps), small_.checkpoint(steps));
  EXPECT_EQ(reproducible_metrics(straight.run_folder()), reproducible_metrics(run));
  std::cout << tally.kills << " SIGKILL and " << tally.terminations << " SIGTERM (seed " << seed << "), "
            << tally.in_a_save << " in the middle of a save; after " << steps
            << " steps checkpoint and metrics equal the straight run's" << std::endl;
}

TEST_F(Interruption, ASecondSignalEndsAtOnce) {
  TrainingProcess process(small_, {"train.steps=1000000"});
  ASSERT_TRUE(process.wait_for([&] { return last_step_in_metrics(small_.run_folder()) > 0; }))
      << process.said();
  // Both are there before the process can do anything about the first.
  process.send(SIGSTOP);
  process.send(SIGINT);
  process.send(SIGTERM);
  process.send(SIGCONT);
  const int status = process.wait();
  EXPECT_TRUE(status == 128 + SIGINT || status == 128 + SIGTERM) << status << "\n" << process.said();
  EXPECT_EQ(newest_step(), 0) << "it saved all the same";
}

TEST_F(Interruption, OneSignalSavesTheStepAndExitsWithZero) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const int64_t before = newest_step();
    TrainingProcess process(small_, {"train.steps=1000000"});
    ASSERT_TRUE(process.wait_for([&] { return last_step_in_metrics(small_.run_folder()) > before + 2; }));
    process.send(signal);
    EXPECT_EQ(process.wait(), 0) << process.said();
    EXPECT_GT(newest_step(), before);
    EXPECT_EQ(newest_step(), last_step_in_metrics(small_.run_folder()));
    expect_no_leftovers();
  }
}

TEST_F(Interruption, ASecondProcessInTheSameFolderIsToldWhoUsesIt) {
  TrainingProcess process(small_, {"train.steps=1000000"});
  ASSERT_TRUE(process.wait_for([&] { return last_step_in_metrics(small_.run_folder()) > 0; }));
  const std::string error = error_of([&] { small_.train(); });
  EXPECT_NE(error.find(str("is in use by process ", process.pid(), " on ")), std::string::npos) << error;
  process.send(SIGTERM);
  EXPECT_EQ(process.wait(), 0) << process.said();
  EXPECT_GT(newest_step(), 0);
}

}  // namespace
}  // namespace asplash::train
