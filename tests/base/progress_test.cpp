#include "asplash/base/progress.h"

#include <gtest/gtest.h>

#include <chrono>
#include <regex>
#include <thread>

#include "asplash/base/log.h"
#include "base/pseudo_terminal.h"

namespace asplash {
namespace {

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

TEST(Progress, PlainLinesInPipes) {
  ::testing::internal::CaptureStderr();
  Progress progress({"pack", "B", 4 << 20, 0, 0.05});
  progress.update(1 << 20);  // too early for a line
  sleep_ms(60);
  progress.update(2 << 20, "note");
  progress.update(3 << 20);
  progress.update(4 << 20);
  progress.finish("done");
  progress.finish("twice");
  progress.update(1);
  const std::string written = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(std::regex_match(
      written, std::regex("pack  2\\.0 MiB / 4\\.0 MiB  50%  [0-9.]+ MiB/s  0\\.\\d s left  note\n"
                          "pack  4\\.0 MiB  [0-9.]+ MiB/s  in 0\\.\\d s  done\n")))
      << written;
}

TEST(Progress, UnknownTotalAndResumedRuns) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress({"read", "lines", 0, 0, 0});
    progress.update(0);
    sleep_ms(20);
    progress.update(12345);
  }
  {
    Progress progress({"train", "steps", 1000, 900, 0});
    progress.update(900);
    progress.finish();
  }
  const std::string written = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(std::regex_match(written, std::regex("read  0 lines\n"
                                                   "read  12\\.3 k lines  [0-9.]+ k lines/s\n"
                                                   "train  900 / 1\\.00 k steps  90%\n"
                                                   "train  900 steps  in 0\\.0 s\n")))
      << written;
}

TEST(Progress, RedrawnInPlaceOnTerminals) {
  const std::string written = testing::on_terminal(40, [] {
    log::init({});
    Progress progress({"train", "steps", 100});
    progress.update(1, "a note that does not fit into so narrow a terminal");
    for (int i = 2; i < 1000; ++i) progress.update(i);  // faster than the eye: not drawn
    log::info("a line");
    progress.clear();
    log::info("another line");
    progress.finish();
  });
  const std::string erase = "\r\x1b\\[K";
  const std::string drawn = "train  1 / 100 steps  1%  [^\r\n]*";
  EXPECT_TRUE(std::regex_match(written, std::regex(erase + drawn + erase + "a line\r\n" + drawn + erase +
                                                   "another line\r\ntrain  999 steps  [^\r\n]*\r\n")))
      << ::testing::PrintToString(written);
  std::smatch first;
  ASSERT_TRUE(std::regex_search(written, first, std::regex("train[^\r\n]*")));
  EXPECT_EQ(first.str().size(), 39u) << "one column stays free";
}

TEST(Progress, NoControlCharactersOnDumbTerminals) {
  const std::string written = testing::on_terminal(40, [] {
    ::setenv("TERM", "dumb", 1);
    log::init({});
    Progress progress({"train", "steps", 100});
    progress.update(1);
    progress.finish();
  });
  EXPECT_EQ(written.find('\x1b'), std::string::npos) << written;
  EXPECT_EQ(written.substr(0, 14), "train  1 steps");
}

TEST(Progress, ManyThreads) {
  ::testing::internal::CaptureStderr();
  Progress progress({"x", "", 0, 0, 0.001});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&progress] {
      for (int i = 0; i < 2000; ++i) progress.update(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  progress.finish();
  EXPECT_FALSE(::testing::internal::GetCapturedStderr().empty());
}

}  // namespace
}  // namespace asplash
