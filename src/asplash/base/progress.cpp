#include "asplash/base/progress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <utility>

#include "asplash/base/log.h"
#include "asplash/base/terminal.h"
#include "asplash/base/text.h"

namespace asplash {
namespace {

constexpr double kRedrawSeconds = 0.1;
// The rate shown follows about this much of the past.
constexpr double kRateMemorySeconds = 10;

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

struct Progress::Impl {
  Options options;
  bool interactive;
  Clock::time_point started = Clock::now();
  std::mutex mutex;
  double done;
  bool finished = false;
  Clock::time_point shown = started;
  bool shown_once = false;
  // Rate over the recent past, from one display to the next.
  double rate = 0;
  double rate_done;
  Clock::time_point rate_time = started;

  explicit Impl(Options o)
      : options(std::move(o)),
        interactive(terminal::is_interactive()),
        done(options.start),
        rate_done(options.start) {}

  std::string amount(double value, bool with_unit) const {
    if (options.unit == "B") return human_bytes(value);
    return with_unit && !options.unit.empty() ? human_count(value) + " " + options.unit : human_count(value);
  }

  std::string speed(double per_second) const { return amount(per_second, true) + "/s"; }

  void update_rate(Clock::time_point now) {
    const double elapsed = seconds_between(rate_time, now);
    if (elapsed <= 0) return;
    const double recent = (done - rate_done) / elapsed;
    const double all = (done - options.start) / std::max(seconds_between(started, now), 1e-9);
    const double keep = std::exp(-elapsed / kRateMemorySeconds);
    // Early on the average over everything is the better estimate.
    rate = seconds_between(started, now) < kRateMemorySeconds ? all : keep * rate + (1 - keep) * recent;
    rate_done = done;
    rate_time = now;
  }

  std::string line(const std::string& note) const {
    std::string text = options.label + "  " + amount(done, options.total <= 0);
    if (options.total > 0) {
      const double share = std::clamp(done / options.total, 0.0, 1.0);
      // Rounded down: 100% is for what is complete.
      text += " / " + amount(options.total, true) + "  " + fixed(std::floor(100 * share), 0) + "%";
    }
    if (rate > 0) text += "  " + speed(rate);
    if (rate > 0 && options.total > 0) {
      text += "  " + human_duration(std::max(options.total - done, 0.0) / rate) + " left";
    }
    return note.empty() ? text : text + "  " + note;
  }

  std::string last_line(const std::string& note) const {
    const double elapsed = seconds_between(started, Clock::now());
    std::string text = options.label + "  " + amount(done, true);
    if (done > options.start && elapsed > 0) text += "  " + speed((done - options.start) / elapsed);
    text += "  in " + human_duration(elapsed);
    return note.empty() ? text : text + "  " + note;
  }
};

Progress::Progress(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}

Progress::~Progress() { clear(); }

void Progress::update(double done, const std::string& note) {
  Impl& p = *impl_;
  const std::lock_guard<std::mutex> lock(p.mutex);
  p.done = done;
  if (p.finished) return;
  const auto now = Clock::now();
  const double pause = p.interactive ? (p.shown_once ? kRedrawSeconds : 0) : p.options.plain_seconds;
  if (seconds_between(p.shown, now) < pause) return;
  p.update_rate(now);
  p.shown = now;
  p.shown_once = true;
  if (p.interactive) {
    terminal::set_status(p.line(note));
  } else {
    log::info(p.line(note));
  }
}

void Progress::clear() {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  if (impl_->interactive && !impl_->finished) terminal::clear_status();
}

void Progress::finish(const std::string& note) {
  Impl& p = *impl_;
  const std::lock_guard<std::mutex> lock(p.mutex);
  if (p.finished) return;
  if (p.interactive) terminal::clear_status();
  p.finished = true;
  log::info(p.last_line(note));
}

}  // namespace asplash
