#include "asplash/train/step_clock.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/Event.h>

namespace asplash::train {

StepClock::StepClock(const ops::DeviceInfo& device) : device_(device), next_begin_(now()) {}

void StepClock::restart() { next_begin_ = now(); }

void StepClock::step_handed_over() {
  begins_.push_back(next_begin_);
  next_begin_ = now();
  ends_.push_back(next_begin_);
}

std::vector<double> StepClock::take() {
  std::vector<double> times;
  for (size_t i = 0; i < ends_.size(); ++i) times.push_back(milliseconds(begins_[i], ends_[i]));
  begins_.clear();
  ends_.clear();
  return times;
}

StepClock::Mark StepClock::now() const {
  Mark mark;
  if (!device_.is_cuda) {
    mark.host = Host::now();
    return mark;
  }
  const c10::Device device(device_.name);
  mark.event = std::make_shared<c10::Event>(device.type(), c10::EventFlag::BACKEND_DEFAULT);  // with time
  mark.event->record(at::accelerator::getCurrentStream(device.index()));
  return mark;
}

double StepClock::milliseconds(const Mark& begin, const Mark& end) {
  if (end.event) return begin.event->elapsedTime(*end.event);
  return std::chrono::duration<double, std::milli>(end.host - begin.host).count();
}

}  // namespace asplash::train
