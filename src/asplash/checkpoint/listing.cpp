#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/checkpoint/checkpoint.h"
#include "asplash/checkpoint/layout.h"
#include "asplash/checkpoint/manifest.h"
#include "asplash/checkpoint/trainer_state.h"

namespace asplash::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "step_";

/// The step of a folder named step_<digits>, -1 for other names.
int64_t step_of(const std::string& name) {
  const std::string prefix = kPrefix;
  const std::string digits = name.substr(std::min(name.size(), prefix.size()));
  if (name.compare(0, prefix.size(), prefix) != 0 || digits.empty() || digits.size() > 18) return -1;
  const bool numeric =
      std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c); });
  return numeric ? std::stoll(digits) : -1;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// step_<digits>.tmp or step_<digits>.replaced.tmp
bool is_unfinished(const std::string& name) {
  for (const std::string suffix : {kReplacedSuffix, kUnfinishedSuffix}) {
    if (ends_with(name, suffix) && step_of(name.substr(0, name.size() - suffix.size())) >= 0) return true;
  }
  return false;
}

struct Found {
  std::vector<std::string> newest_first;  ///< folders step_<digits>
  std::vector<std::string> unfinished;    ///< folders step_*.tmp
};

Found find(const std::string& run_folder) {
  Found found;
  std::vector<std::pair<int64_t, std::string>> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_folder + "/checkpoints", error)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_directory()) continue;
    if (step_of(name) >= 0) steps.emplace_back(step_of(name), entry.path().string());
    if (is_unfinished(name)) {
      found.unfinished.push_back(entry.path().string() + ": its writing did not end");
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  for (auto& [step, path] : steps) found.newest_first.push_back(std::move(path));
  std::sort(found.unfinished.begin(), found.unfinished.end());
  return found;
}

/// Why a folder step_<digits> is no whole checkpoint of that step; empty if it is one.
std::string why_not(const std::string& path) {
  const std::string damage = find_damage(path, required_files(), Verify::checksums);
  if (!damage.empty()) return damage;
  try {
    const std::string file = path + "/" + kStateFile;
    const int64_t step = parse_trainer_state(file, read_file(file)).step;
    if (step == step_of(fs::path(path).filename().string())) return "";
    return str("it holds step ", step, ": it was renamed or copied");
  } catch (const Error& error) {
    return error.what();
  }
}

Listing verify(const std::string& run_folder, size_t at_most) {
  Found found = find(run_folder);
  Listing listing;
  listing.passed_over = std::move(found.unfinished);
  for (const std::string& path : found.newest_first) {
    if (listing.complete.size() == at_most) break;
    const std::string reason = why_not(path);
    if (reason.empty()) {
      listing.complete.push_back(path);
    } else {
      listing.passed_over.push_back(path + ": " + reason);
    }
  }
  std::reverse(listing.complete.begin(), listing.complete.end());
  return listing;
}

/// Out of sight first, so that a folder half removed is never taken for a checkpoint.
void remove_checkpoint(const std::string& path) {
  std::error_code error;
  const std::string aside = path + kUnfinishedSuffix;
  fs::remove_all(aside, error);
  fs::rename(path, aside, error);
  if (!error) fs::remove_all(aside, error);
  if (error) fail("cannot remove the old checkpoint ", path, ": ", error.message());
}

void remove_leftover(const fs::path& path, std::vector<std::string>& done) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail("cannot remove ", path.string(), ", left by a process that was ended: ", error.message());
  done.push_back("removed " + path.string() + ": its writing or removal did not end");
}

/// Ended between the two renames of a replacement: the checkpoint that was aside has no successor.
bool put_back(const fs::path& aside, std::vector<std::string>& done) {
  const std::string text = aside.string();
  if (!ends_with(text, kReplacedSuffix)) return false;
  const std::string path = text.substr(0, text.size() - std::string(kReplacedSuffix).size());
  std::error_code error;
  if (fs::exists(path, error)) return false;
  fs::rename(aside, path, error);
  if (error) fail("cannot rename ", text, " to ", path, ": ", error.message());
  done.push_back("put " + path + " back: its replacement did not end");
  return true;
}

/// FILE.tmp-<pid> of the files that a trainer writes into its run folder.
bool is_unfinished_file(const std::string& name) {
  const size_t at = name.rfind(".tmp-");
  if (at == std::string::npos || at + 5 == name.size()) return false;
  const std::string file = name.substr(0, at);
  return (file == "config.yaml" || file == "metrics.jsonl") &&
         name.find_first_not_of("0123456789", at + 5) == std::string::npos;
}

/// The folder's entries; none where it is not there. Collected first, since they are renamed and removed.
std::vector<fs::path> entries_of(const std::string& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

std::string path_of_step(const std::string& run_folder, int64_t step) {
  char name[40];
  std::snprintf(name, sizeof(name), "%s%08lld", kPrefix, static_cast<long long>(step));
  return run_folder + "/checkpoints/" + name;
}

Listing list(const std::string& run_folder) { return verify(run_folder, static_cast<size_t>(-1)); }

Listing newest(const std::string& run_folder) { return verify(run_folder, 1); }

std::vector<std::string> prune(const std::string& run_folder, int64_t keep, int64_t best_step) {
  std::vector<std::string> removed;
  int64_t kept = 0;
  for (const std::string& path : find(run_folder).newest_first) {
    if (path == path_of_step(run_folder, 0)) continue;
    const Verify depth = kept == 0 ? Verify::checksums : Verify::sizes;
    if (!find_damage(path, required_files(), depth).empty()) continue;
    if (kept < std::max<int64_t>(keep, 1)) {
      ++kept;
    } else if (path != path_of_step(run_folder, best_step)) {
      remove_checkpoint(path);
      removed.push_back(path);
    }
  }
  return removed;
}

std::vector<std::string> clean_leftovers(const std::string& run_folder) {
  std::vector<std::string> done;
  for (const fs::path& path : entries_of(run_folder + "/checkpoints")) {
    if (is_unfinished(path.filename().string()) && !put_back(path, done)) remove_leftover(path, done);
  }
  for (const fs::path& path : entries_of(run_folder)) {
    if (is_unfinished_file(path.filename().string())) remove_leftover(path, done);
  }
  return done;
}

}  // namespace asplash::checkpoint
