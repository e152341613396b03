#include "asplash/base/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "asplash/base/files.h"
#include "base/folder_test.h"
#include "base/pseudo_terminal.h"

namespace asplash {
namespace {

class Log : public testing::FolderTest {
 protected:
  void TearDown() override { log::init({}); }
};

TEST_F(Log, ConsoleLinesSayTheirLevel) {
  ::testing::internal::CaptureStderr();
  log::init({log::Level::debug, false, ""});
  log::debug("a");
  log::info("b {} %s");
  log::warning("c");
  log::error("d");
  log::info("two\nlines\n");
  log::info("");
  log::file_only("nowhere");
  log::flush();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "debug: a\nb {} %s\nwarning: c\nerror: d\ntwo\nlines\n\n");
}

TEST_F(Log, LevelHidesWhatIsBelow) {
  ::testing::internal::CaptureStderr();
  log::init({log::Level::warning, false, path("log")});
  log::info("hidden");
  log::warning("shown");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "warning: shown\n");
  EXPECT_EQ(read_file(path("log")).find("hidden"), std::string::npos);
}

TEST_F(Log, Timestamps) {
  ::testing::internal::CaptureStderr();
  log::init({log::Level::info, true, ""});
  log::warning("x");
  const std::string line = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(std::regex_match(line, std::regex("\\d\\d:\\d\\d:\\d\\d warning: x\n"))) << line;
}

TEST_F(Log, FileLinesHaveTimeAndLevel) {
  ::testing::internal::CaptureStderr();
  log::init({log::Level::info, false, path("log")});
  log::info("one\ntwo");
  log::file_only("three");
  log::error("four");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "one\ntwo\nerror: four\n");
  const std::string time = "\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\\.\\d{3} ";
  const std::regex lines(time + "info one\n" + time + "info two\n" + time + "info three\n" + time +
                         "error four\n");
  EXPECT_TRUE(std::regex_match(read_file(path("log")), lines)) << read_file(path("log"));
  // A second run appends.
  log::init({log::Level::info, false, path("log")});
  log::file_only("five");
  const std::string content = read_file(path("log"));
  EXPECT_EQ(std::count(content.begin(), content.end(), '\n'), 5);
}

TEST_F(Log, FileRotatesAndStaysBounded) {
  constexpr uint64_t kMostBytes = 4000;
  log::Options options;
  options.file = path("train.log");
  options.most_file_bytes = kMostBytes;
  EXPECT_EQ(log::older_files(options.file),
            (std::vector<std::string>{path("train.1.log"), path("train.2.log"), path("train.3.log")}));
  // In two runs, the second of which goes on in the file of the first.
  int written = 0;
  for (const int lines : {500, 503}) {
    log::init(options);
    for (int i = 0; i < lines; ++i) log::file_only("line " + std::to_string(written++));
  }
  EXPECT_EQ(files(), 4u) << "three older files";
  std::string all;
  for (const char* name : {"train.3.log", "train.2.log", "train.1.log", "train.log"}) {
    const std::string content = read_file(path(name));
    EXPECT_LE(content.size(), kMostBytes) << name;
    EXPECT_EQ(content.back(), '\n') << name << ": lines stay whole";
    all += content;
  }
  // What is left are the newest lines, none missing.
  int expected = written - static_cast<int>(std::count(all.begin(), all.end(), '\n'));
  EXPECT_GT(written - expected, 200);
  std::istringstream lines(all);
  for (std::string line; std::getline(lines, line); ++expected) {
    ASSERT_EQ(line.substr(line.find("line ")), "line " + std::to_string(expected));
  }
  EXPECT_EQ(expected, written);
}

TEST_F(Log, FileThatCannotBeOpenedIsNamed) {
  std::filesystem::create_directory(path("folder"));
  const std::string message = testing::error_of([&] {
    log::init({log::Level::info, false, path("folder")});
  });
  EXPECT_EQ(message.find("log file " + path("folder") + ": "), 0u) << message;
  const std::string rotating = testing::error_of([&] {
    log::init({log::Level::info, false, path("folder"), 1000});
  });
  EXPECT_EQ(rotating.find("log file " + path("folder") + ": "), 0u) << rotating;
}

TEST_F(Log, LinesOfManyThreadsStayWhole) {
  ::testing::internal::CaptureStderr();
  log::init({log::Level::info, false, path("log")});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 200; ++i) log::info(std::string(50, static_cast<char>('a' + t)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string console = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(console.size(), 4u * 200 * 51);
  for (size_t at = 0; at < console.size(); at += 51) {
    ASSERT_EQ(console.substr(at, 51), std::string(50, console[at]) + "\n");
  }
  const std::string content = read_file(path("log"));
  EXPECT_EQ(std::count(content.begin(), content.end(), '\n'), 800);
}

TEST_F(Log, ColoursOnTerminalsUnlessRefused) {
  const auto warn = [] {
    log::init({});
    log::warning("x");
  };
  ::unsetenv("NO_COLOR");
  EXPECT_EQ(testing::on_terminal(80, warn), "\x1b[33mwarning: \x1b[0mx\r\n");
  ::setenv("NO_COLOR", "1", 1);
  EXPECT_EQ(testing::on_terminal(80, warn), "warning: x\r\n");
  ::unsetenv("NO_COLOR");
}

}  // namespace
}  // namespace asplash
