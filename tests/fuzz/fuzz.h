#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/text.h"

/// What a fuzz target defines. libFuzzer (preset `fuzz`, clang) and replay.cpp (any compiler, in the ordinary
/// tests) both call it with one input after another.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace asplash::fuzz {

/// Valid inputs of the target, made of real files by the real writers: where mutations begin.
std::vector<std::string> seeds();

/// Ends the process, which is what a fuzzer takes for a finding.
inline void require(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "fuzz: broken promise: %s\n", what.c_str());
  std::abort();
}

/// Runs `action`: nothing where it succeeds, the message where it refuses its input. A refusal must be an
/// asplash::Error that a terminal can show: valid UTF-8 without control characters, not endless, one line (or
/// `lines` at most). Any other exception goes through and ends the process.
template <class Action>
std::optional<std::string> refusal(Action action, long lines = 1) {
  constexpr size_t kLongestLine = 4000;
  try {
    action();
    return std::nullopt;
  } catch (const Error& error) {
    const std::string message = error.what();
    long seen = 1;
    for (const char c : message) {
      if (c == '\n') ++seen;
      require(c == '\n' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f),
              "control character in: " + message);
    }
    require(!message.empty(), "an empty message");
    require(seen <= lines, "more lines than one in: " + message);
    require(is_valid_utf8(message), "invalid UTF-8 in: " + message);
    require(message.size() <= kLongestLine * static_cast<size_t>(lines), "an endless message: " + message);
    return message;
  }
}

/// Takes an input apart from its front; what is not there reads as zeros.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  std::string_view take(size_t count) {
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(taken.size());
    return taken;
  }
  unsigned byte() {
    const std::string_view taken = take(1);
    return taken.empty() ? 0 : static_cast<unsigned char>(taken[0]);
  }
  /// Up to the next occurrence of `end`, which is taken as well.
  std::string_view until(char end) {
    const size_t at = rest_.find(end);
    const std::string_view taken = take(at);
    if (at != std::string_view::npos) rest_.remove_prefix(1);
    return taken;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

/// A folder of this process, in memory where the system has a place for that; removed at exit.
class ScratchFolder {
 public:
  ScratchFolder() {
    const std::filesystem::path memory = "/dev/shm";
    const auto parent = std::filesystem::exists(memory) ? memory : std::filesystem::temp_directory_path();
    path_ = (parent / "asplash-fuzz-XXXXXX").string();
    if (::mkdtemp(path_.data()) == nullptr) fail("cannot make a folder in ", parent.string());
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }
  /// Writes a file of the folder and returns its path.
  std::string write(const std::string& name, std::string_view content) const {
    const std::string path = path_ + "/" + name;
    std::ofstream(path, std::ios::binary | std::ios::trunc)
        .write(content.data(), static_cast<std::streamsize>(content.size()));
    return path;
  }

 private:
  std::string path_;
};

}  // namespace asplash::fuzz
