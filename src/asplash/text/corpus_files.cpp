#include "asplash/text/corpus_files.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "asplash/base/error.h"
#include "asplash/text/byte_source.h"

namespace asplash::text {
namespace fs = std::filesystem;
namespace {

constexpr const char* kKnown = ".txt or .jsonl, also compressed (.xz, .gz, .zst, .bz2)";

std::optional<CorpusFormat> format_of(const std::string& path) {
  const std::string plain = path.substr(0, path.size() - compression_of(path).size());
  const std::string ending = fs::path(plain).extension().string();
  if (ending == ".txt") return CorpusFormat::text;
  if (ending == ".jsonl") return CorpusFormat::json_lines;
  return std::nullopt;
}

CorpusFile describe(const std::string& path, CorpusFormat format) {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  if (error) fail("cannot read ", path, ": ", error.message());
  return {path, format, static_cast<int64_t>(bytes)};
}

void add_folder(const std::string& folder, std::vector<CorpusFile>& files) {
  std::vector<std::string> paths;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, fs::directory_options::follow_directory_symlink, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (entry->is_regular_file() && format_of(entry->path().string()))
      paths.push_back(entry->path().string());
  }
  if (error) fail("cannot read folder ", folder, ": ", error.message());
  if (paths.empty()) fail("--input ", folder, ": the folder holds no file ending in ", kKnown);
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) files.push_back(describe(path, *format_of(path)));
}

void add_path(const std::string& path, std::vector<CorpusFile>& files) {
  if (fs::is_directory(path)) return add_folder(path, files);
  const auto format = format_of(path);
  if (!format) fail("--input ", path, ": cannot tell the format; the name must end in ", kKnown);
  files.push_back(describe(path, *format));
}

/// Matches of a glob pattern in order.
std::vector<std::string> matches(const std::string& pattern) {
  glob_t found{};
  const std::unique_ptr<glob_t, decltype(&::globfree)> guard(&found, ::globfree);
  if (::glob(pattern.c_str(), 0, nullptr, &found) != 0) return {};
  return {found.gl_pathv, found.gl_pathv + found.gl_pathc};
}

}  // namespace

std::vector<CorpusFile> find_corpus_files(const std::vector<std::string>& inputs) {
  std::vector<CorpusFile> files;
  for (const std::string& input : inputs) {
    if (fs::exists(input)) {
      add_path(input, files);
      continue;
    }
    const auto paths = matches(input);
    if (paths.empty())
      fail("--input ", input, ": no such file or folder, and no file matches it as a pattern");
    for (const std::string& path : paths) add_path(path, files);
  }
  return files;
}

}  // namespace asplash::text
