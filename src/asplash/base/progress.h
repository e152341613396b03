#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace asplash {

/// A progress line: "pack  12.3 / 57.0 MB  21%  3.1 MB/s  0:14 left". On a terminal it is redrawn in place
/// (cut to the terminal's width; no colours with NO_COLOR); elsewhere a plain line is logged at most every
/// `plain_seconds` and at the end. Thread-safe.
class Progress {
 public:
  struct Options {
    std::string label;
    std::string unit;          ///< "tokens", "B" (shown with binary prefixes), "steps", ...
    double total = 0;          ///< 0: unknown
    double plain_seconds = 10;
  };
  explicit Progress(Options options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(double done, const std::string& note = "");
  /// Erases the line on a terminal, so that another line can be printed; it comes back at the next update.
  void clear();
  /// Ends with a final line (label, total, rate, time).
  void finish(const std::string& note = "");

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace asplash
