#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// Logging behind a header of our own: spdlog is included by log.cpp alone (its fmt and libtorch's differ).
/// All functions may be called from any thread.
namespace asplash::log {

enum class Level { debug, info, warning, error };

struct Options {
  Level level = Level::info;
  bool timestamps = false;  ///< prefix console lines with the time; file lines always have it
  std::string file;         ///< also append every line to this file; empty: console only
  /// Before the file grows beyond so many bytes it is renamed: NAME.log to NAME.1.log, that to NAME.2.log, up
  /// to kOlderFiles, the oldest of which is removed. 0: it grows.
  uint64_t most_file_bytes = 0;
};

constexpr int kOlderFiles = 3;
/// The names that log files older than `file` have, the newest first.
std::vector<std::string> older_files(const std::string& file);

/// Sets the process's logger up; without a call, lines of level info and above go to stderr.
/// Throws asplash::Error if the file cannot be opened.
void init(const Options& options);

void debug(const std::string& message);
void info(const std::string& message);
void warning(const std::string& message);
void error(const std::string& message);

/// Writes a line to the log file only (for example progress that a terminal shows in place).
void file_only(const std::string& message);

/// Flushes console and file.
void flush();

}  // namespace asplash::log
