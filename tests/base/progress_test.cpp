#include "asplash/base/progress.h"

#include <gtest/gtest.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <chrono>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "asplash/base/log.h"
#include "base/pseudo_terminal.h"

namespace asplash {
namespace {

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

/// What was drawn in place: what follows each erasing up to the next control character.
std::vector<std::string> status_lines(const std::string& written) {
  std::vector<std::string> lines;
  const std::regex pattern("(?:\x1b\\[K|\r\n)(train[^\r\n\x1b]*)(?=\r\x1b|$)");
  for (std::sregex_iterator at(written.begin(), written.end(), pattern), end; at != end; ++at)
    lines.push_back((*at)[1]);
  return lines;
}

size_t columns_of(const std::string& line) {
  return static_cast<size_t>(
      std::count_if(line.begin(), line.end(), [](unsigned char c) { return (c & 0xc0) != 0x80; }));
}

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

TEST(Progress, NeverWrapsAndLeavesNothingBehind) {
  // 1 and 2 columns have no room for a line at all.
  for (const unsigned short columns : {1, 2, 10, 25}) {
    const std::string written = testing::on_terminal(columns, [] {
      log::init({});
      Progress progress({"train", "steps", 50});
      for (int i = 0; i < 3; ++i) {
        progress.update(
            i, "a note with \xc3\xa9 \xe2\x82\xac and \xf0\x9f\x98\x80 in it, longer than most terminals");
        sleep_ms(105);
        log::info("line " + std::to_string(i));
      }
      progress.clear();
    });
    // As a terminal shows it that is wide enough for the log lines, where a redraw only erases its own row.
    std::vector<std::string> rows;
    for (const std::string& row : testing::screen_of(written)) {
      if (!row.empty()) rows.push_back(row);
    }
    EXPECT_EQ(rows, (std::vector<std::string>{"line 0", "line 1", "line 2"})) << columns;
    for (const std::string& drawn : status_lines(written))
      EXPECT_LT(columns_of(drawn), std::max<size_t>(columns, 2)) << ::testing::PrintToString(drawn);
  }
}

TEST(Progress, FollowsTheTerminalsWidth) {
  const std::string written = testing::on_terminal(40, [] {
    log::init({});
    Progress progress({"train", "steps", 100});
    const std::string note(100, 'n');
    for (const unsigned short columns : {40, 20, 60}) {
      const winsize size{24, columns, 0, 0};
      if (::ioctl(STDERR_FILENO, TIOCSWINSZ, &size) != 0) ::_exit(1);
      progress.update(1, note);
      sleep_ms(110);
    }
    const winsize narrow{24, 15, 0, 0};
    if (::ioctl(STDERR_FILENO, TIOCSWINSZ, &narrow) != 0) ::_exit(1);
    log::info("a line");  // the status below it is drawn again, for the width of now
    progress.clear();
  });
  std::vector<size_t> lengths;
  for (const std::string& drawn : status_lines(written)) lengths.push_back(drawn.size());
  EXPECT_EQ(lengths, (std::vector<size_t>{39, 19, 59, 14})) << ::testing::PrintToString(written);
}

TEST(Progress, NoColourDrawsInPlaceWithoutColours) {
  const std::string written = testing::on_terminal(40, [] {
    ::setenv("NO_COLOR", "1", 1);
    log::init({});
    Progress progress({"train", "steps", 100});
    progress.update(1);
    log::warning("careful");
    log::error("bad");
    progress.finish();
  });
  EXPECT_FALSE(std::regex_search(written, std::regex("\x1b\\[[0-9;]*m")))
      << ::testing::PrintToString(written);
  EXPECT_NE(written.find("\r\x1b[Ktrain  1 / 100"), std::string::npos) << ::testing::PrintToString(written);
  const std::vector<std::string> rows = testing::screen_of(written);
  ASSERT_EQ(rows.size(), 4u) << ::testing::PrintToString(written);
  EXPECT_EQ(rows[0], "warning: careful");
  EXPECT_EQ(rows[1], "error: bad");
  EXPECT_EQ(rows[2].rfind("train  1 steps", 0), 0u) << rows[2];
}

TEST(Progress, NoControlCharactersInPipes) {
  ::testing::internal::CaptureStderr();
  Progress progress({"train", "steps", 100, 0, 0});
  for (int i = 0; i < 20; ++i) {
    progress.update(i, std::string(200, 'n'));
    log::warning("x");
    progress.clear();
  }
  progress.finish();
  const std::string written = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(written.find_first_of("\r\x1b"), std::string::npos) << ::testing::PrintToString(written);
  EXPECT_NE(written.find(std::string(200, 'n') + "\n"), std::string::npos) << "lines in files are not cut";
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
  // The terminal itself makes \r\n of each \n.
  EXPECT_FALSE(std::regex_search(written, std::regex("\r[^\n]"))) << ::testing::PrintToString(written);
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
