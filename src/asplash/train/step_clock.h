#pragma once

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "asplash/ops/device.h"

namespace c10 {
struct Event;
}

namespace asplash::train {

/// How long each step takes, from the end of the one before it, waiting for data included. On a GPU by events
/// on the current stream, which nothing waits for; they are read when the steps are known to be done.
class StepClock {
 public:
  explicit StepClock(const ops::DeviceInfo& device);

  /// The next step begins now: what came before it (an evaluation, a save) belongs to no step.
  void restart();
  /// The work of a step has been handed to the device.
  void step_handed_over();
  /// Milliseconds of each step since the last call. Only after the device was waited for.
  std::vector<double> take();

 private:
  using Host = std::chrono::steady_clock;
  /// A moment: on the CPU the time, on a GPU an event.
  struct Mark {
    Host::time_point host;
    std::shared_ptr<c10::Event> event;
  };

  Mark now() const;
  static double milliseconds(const Mark& begin, const Mark& end);

  ops::DeviceInfo device_;
  std::vector<Mark> begins_, ends_;  ///< of the steps that were not taken yet
  Mark next_begin_;
};

}  // namespace asplash::train
