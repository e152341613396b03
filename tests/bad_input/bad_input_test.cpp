// Runs the table of broken inputs (*.yaml here, see README.md) against the real programs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include "asplash/base/files.h"
#include "asplash/base/text.h"
#include "shell.h"
#include "table.h"
#include "temporary_folder.h"

namespace asplash::bad_input {
namespace {

namespace fs = std::filesystem;

constexpr int kSeconds = 120;         // more than any of these takes under a sanitizer
constexpr size_t kLongestLine = 600;  // of a message that a person reads
#ifdef __SANITIZE_ADDRESS__
constexpr bool kMemoryIsOurs = false;  // the sanitizer's own memory is the most of it
#else
constexpr bool kMemoryIsOurs = true;
#endif

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// Everything below the folder: relative path, and what it is (of a file: size and time of change).
std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string path = entry.path().string();
    std::string what = entry.is_directory() ? "folder" : "special";
    if (entry.is_symlink()) what = "link";
    if (entry.is_regular_file())
      what = str(entry.file_size(), " ", fs::last_write_time(path).time_since_epoch().count());
    found[path.substr(folder.size() + 1)] = what;
  }
  return found;
}

/// What came, went or changed, except below `allowed`.
std::vector<std::string> changes(const std::map<std::string, std::string>& before,
                                 const std::map<std::string, std::string>& after,
                                 const std::vector<std::string>& allowed) {
  std::set<std::string> different;
  for (const auto& [path, what] : before)
    if (after.count(path) == 0 || after.at(path) != what) different.insert(path);
  for (const auto& [path, what] : after)
    if (before.count(path) == 0) different.insert(path);
  std::vector<std::string> unwanted;
  for (const std::string& path : different) {
    const auto covers = [&](const std::string& prefix) { return path.rfind(prefix, 0) == 0; };
    if (std::none_of(allowed.begin(), allowed.end(), covers)) unwanted.push_back(path);
  }
  return unwanted;
}

/// One line for a person: no control characters, no names from inside the program, of bearable length.
void expect_readable(const std::string& line) {
  EXPECT_TRUE(is_valid_utf8(line)) << line;
  EXPECT_LE(line.size(), kLongestLine) << line;
  EXPECT_TRUE(std::none_of(line.begin(), line.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
      << line;
  for (const char* inside :
       {"exception", "what()", "std::", "c10", ".cpp", "terminate", "basic_string", "0x7f"})
    EXPECT_EQ(line.find(inside), std::string::npos) << "'" << inside << "' in: " << line;
}

/// "error: ..." once, after at most and before exactly as many other lines as the case says.
void expect_one_error(const Case& row, const std::string& err) {
  const std::vector<std::string> lines = lines_of(err);
  ASSERT_GT(static_cast<int>(lines.size()), row.lines_after);
  const auto before = static_cast<int>(lines.size()) - 1 - row.lines_after;
  EXPECT_LE(before, row.lines_before);
  const auto errors = std::count_if(lines.begin(), lines.end(),
                                    [](const std::string& line) { return line.rfind("error: ", 0) == 0; });
  EXPECT_EQ(errors, 1);
  EXPECT_EQ(lines[static_cast<size_t>(before)].rfind("error: ", 0), 0U);
  EXPECT_EQ(err.back(), '\n');
  for (const std::string& line : lines) expect_readable(line);
}

class BadInput : public testing::TestWithParam<Case> {
 protected:
  /// A tokenizer, packed data and a trained run: what all cases start from (good.sh).
  static void SetUpTestSuite() {
    good_ = std::make_unique<TemporaryFolder>();
    const Outcome made =
        run_shell(". " ASPLASH_SOURCE_DIR "/tests/bad_input/good.sh", good_->path(), kSeconds);
    ASSERT_EQ(made.status, 0) << made.out << made.err;
  }
  static void TearDownTestSuite() { good_.reset(); }

  static std::unique_ptr<TemporaryFolder> good_;
};
std::unique_ptr<TemporaryFolder> BadInput::good_;

TEST_P(BadInput, IsAnswered) {
  const Case& row = GetParam();
  SCOPED_TRACE(row.place);
  const TemporaryFolder folder;
  fs::copy(good_->path(), folder.path(), fs::copy_options::recursive);
  const Outcome setup = run_shell(row.setup, folder.path(), kSeconds);
  ASSERT_EQ(setup.status, 0) << setup.out << setup.err;
  const auto before = contents(folder.path());

  const Outcome outcome = run_shell(row.run, folder.path(), kSeconds);
  SCOPED_TRACE(str(row.run, "\n", outcome.out, outcome.err));
  if (outcome.status == 137) ADD_FAILURE() << "killed after " << kSeconds << " s, or for its memory";
  EXPECT_EQ(outcome.status, row.exit);
  for (const std::string& part : row.says) EXPECT_NE(outcome.err.find(part), std::string::npos) << part;
  for (const std::string& part : row.prints) EXPECT_NE(outcome.out.find(part), std::string::npos) << part;
  if (row.exit != 0) {
    EXPECT_EQ(outcome.out, "");
    expect_one_error(row, outcome.err);
  }
  EXPECT_EQ(changes(before, contents(folder.path()), row.writes), std::vector<std::string>{});
  if (row.peak_mib > 0) {
    RecordProperty("peak_mib", static_cast<int>(outcome.peak_mib));
    if (kMemoryIsOurs) {
      EXPECT_LE(outcome.peak_mib, row.peak_mib);
    }
  }
}

std::string name_of(const testing::TestParamInfo<Case>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Configs, BadInput, testing::ValuesIn(read_table("configs")), name_of);
INSTANTIATE_TEST_SUITE_P(CommandLines, BadInput, testing::ValuesIn(read_table("command_lines")), name_of);
INSTANTIATE_TEST_SUITE_P(Corpora, BadInput, testing::ValuesIn(read_table("corpora")), name_of);
INSTANTIATE_TEST_SUITE_P(Packed, BadInput, testing::ValuesIn(read_table("packed")), name_of);
INSTANTIATE_TEST_SUITE_P(Checkpoints, BadInput, testing::ValuesIn(read_table("checkpoints")), name_of);
INSTANTIATE_TEST_SUITE_P(Converted, BadInput, testing::ValuesIn(read_table("converted")), name_of);

}  // namespace
}  // namespace asplash::bad_input
