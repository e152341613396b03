#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>

#include "asplash/base/error.h"
#include "asplash/checkpoint/checkpoint.h"
#include "asplash/checkpoint/layout.h"
#include "asplash/checkpoint/manifest.h"

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
    if (name.rfind(kPrefix, 0) == 0 && entry.path().extension() == ".tmp") {
      found.unfinished.push_back(entry.path().string() + ": its writing did not end");
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  for (auto& [step, path] : steps) found.newest_first.push_back(std::move(path));
  std::sort(found.unfinished.begin(), found.unfinished.end());
  return found;
}

Listing verify(const std::string& run_folder, size_t at_most) {
  Found found = find(run_folder);
  Listing listing;
  listing.passed_over = std::move(found.unfinished);
  for (const std::string& path : found.newest_first) {
    if (listing.complete.size() == at_most) break;
    const std::string damage = find_damage(path, required_files(), Verify::checksums);
    if (damage.empty()) {
      listing.complete.push_back(path);
    } else {
      listing.passed_over.push_back(path + ": " + damage);
    }
  }
  std::reverse(listing.complete.begin(), listing.complete.end());
  return listing;
}

/// Out of sight first, so that a folder half removed is never taken for a checkpoint.
void remove_checkpoint(const std::string& path) {
  std::error_code error;
  const std::string aside = path + ".tmp";
  fs::remove_all(aside, error);
  fs::rename(path, aside, error);
  if (!error) fs::remove_all(aside, error);
  if (error) fail("cannot remove the old checkpoint ", path, ": ", error.message());
}

}  // namespace

std::string path_of_step(const std::string& run_folder, int64_t step) {
  char name[40];
  std::snprintf(name, sizeof(name), "%s%08lld", kPrefix, static_cast<long long>(step));
  return run_folder + "/checkpoints/" + name;
}

Listing list(const std::string& run_folder) { return verify(run_folder, static_cast<size_t>(-1)); }

Listing newest(const std::string& run_folder) { return verify(run_folder, 1); }

std::vector<std::string> prune(const std::string& run_folder, int64_t keep) {
  const Found found = find(run_folder);
  std::vector<std::string> removed;
  int64_t kept = 0;
  for (const std::string& path : found.newest_first) {
    if (path == path_of_step(run_folder, 0)) continue;
    const bool is_newest = path == found.newest_first.front();
    const Verify depth = is_newest ? Verify::checksums : Verify::sizes;
    const bool whole = find_damage(path, required_files(), depth).empty();
    if (is_newest && !whole) return {};
    if (!whole) continue;
    if (kept < std::max<int64_t>(keep, 1)) {
      ++kept;
    } else {
      remove_checkpoint(path);
      removed.push_back(path);
    }
  }
  return removed;
}

}  // namespace asplash::checkpoint
