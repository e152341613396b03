// What the built asplash-train writes to terminals and pipes.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <regex>

#include "base/pseudo_terminal.h"
#include "train/small_run.h"

namespace asplash::train {
namespace {

constexpr const char* kProgram = ASPLASH_BIN_DIR "/asplash-train";

class Terminal : public ::testing::Test {
 protected:
  /// Trains the small run on a terminal with this environment variable (or none: "") set.
  std::string trained_on_terminal(unsigned short columns, const char* variable, const char* value) const {
    const std::string config = small_.config_file();
    return asplash::testing::on_terminal(columns, [&] {
      ::unsetenv("NO_COLOR");
      ::setenv("OMP_WAIT_POLICY", "passive", 1);
      if (*variable != '\0') ::setenv(variable, value, 1);
      // A warning, which has a colour where colours are: the warm-up is longer than the run.
      ::execl(kProgram, "asplash-train", "--config", config.c_str(), "--set", "optim.warmup_steps=50",
              nullptr);
    });
  }
  static bool has_rows(const std::vector<std::string>& rows, const std::string& beginning, int count) {
    return std::count_if(rows.begin(), rows.end(),
                         [&](const std::string& row) { return row.rfind(beginning, 0) == 0; }) == count;
  }

  SmallRun small_;
};

TEST_F(Terminal, NarrowOnesShowOneRowOfProgressBelowTheLog) {
  const std::string written = trained_on_terminal(30, "", "");
  const std::regex drawn("\r\x1b\\[K(train  [^\r\n\x1b]*)");
  int drawings = 0;
  for (std::sregex_iterator at(written.begin(), written.end(), drawn), end; at != end; ++at, ++drawings)
    EXPECT_LT((*at)[1].length(), 30) << (*at)[1];
  EXPECT_GE(drawings, 1) << written;
  const std::vector<std::string> rows = asplash::testing::screen_of(written);
  EXPECT_TRUE(has_rows(rows, "step ", 20)) << written;
  EXPECT_TRUE(has_rows(rows, "train  ", 0)) << "the progress line left a row behind: " << written;
  EXPECT_NE(written.find("\x1b[33mwarning: "), std::string::npos) << "colours, where nothing speaks against";
}

TEST_F(Terminal, NoColourMeansNoColourCodes) {
  const std::string written = trained_on_terminal(80, "NO_COLOR", "1");
  EXPECT_FALSE(std::regex_search(written, std::regex("\x1b\\[[0-9;]*m")))
      << ::testing::PrintToString(written);
  EXPECT_NE(written.find("\r\x1b[Ktrain  "), std::string::npos) << "still drawn in place";
  EXPECT_TRUE(has_rows(asplash::testing::screen_of(written), "step ", 20)) << written;
}

TEST_F(Terminal, DumbOnesGetPlainLines) {
  const std::string written = trained_on_terminal(80, "TERM", "dumb");
  EXPECT_EQ(written.find('\x1b'), std::string::npos) << ::testing::PrintToString(written);
  EXPECT_FALSE(std::regex_search(written, std::regex("\r[^\n]"))) << "only what the terminal makes of \\n";
  EXPECT_NE(written.find("step 20/20"), std::string::npos) << written;
}

TEST_F(Terminal, PipesGetPlainLines) {
  const std::string command =
      str("OMP_WAIT_POLICY=passive ", kProgram, " --config ", small_.config_file(), " 2>&1");
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(::popen(command.c_str(), "r"), ::pclose);
  ASSERT_TRUE(pipe);
  std::string written;
  std::array<char, 4096> buffer{};
  while (const size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe.get()))
    written.append(buffer.data(), count);
  EXPECT_EQ(written.find_first_of("\r\x1b"), std::string::npos) << ::testing::PrintToString(written);
  EXPECT_NE(written.find("step 20/20"), std::string::npos) << written;
}

}  // namespace
}  // namespace asplash::train
