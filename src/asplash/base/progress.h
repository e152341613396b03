#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace asplash {

/// A progress line: "pack  12.3 MiB / 57.0 MiB  21%  3.1 MiB/s  14 s left". On a terminal it is redrawn in
/// place at most ten times a second (cut to the terminal's width; log lines appear above it); elsewhere a
/// plain line is logged at most every `plain_seconds`. Either way finish() logs a last line. One at a time on
/// a terminal. Thread-safe.
class Progress {
 public:
  struct Options {
    std::string label;
    std::string unit;  ///< "tokens", "B" (shown with binary prefixes), "steps", ...
    double total = 0;  ///< 0: unknown
    double start = 0;  ///< what is done already (a resumed run): not counted in the rate
    double plain_seconds = 10;
  };
  explicit Progress(Options options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(double done, const std::string& note = "");
  /// Erases the line on a terminal, so that another line can be printed; it comes back at the next update.
  void clear();
  /// Ends with a final line (label, total, rate, time), once; an object destroyed without it leaves no line.
  void finish(const std::string& note = "");

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace asplash
