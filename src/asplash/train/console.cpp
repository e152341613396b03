#include "asplash/train/console.h"

#include <array>
#include <cmath>
#include <cstdio>

#include "asplash/base/error.h"
#include "asplash/base/text.h"

namespace asplash::train {
namespace {

std::string padded(const std::string& text, size_t width) {
  return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

std::string number(double value, int digits, size_t width) { return padded(fixed(value, digits), width); }

std::string scientific(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2e", value);
  return text.data();
}

}  // namespace

std::string step_line(const StepRecord& r, int64_t steps, bool statistics) {
  const std::string total = std::to_string(steps);
  std::string line = str("step ", padded(std::to_string(r.step), total.size()), "/", total);
  line += str(" | loss ", number(r.loss, 4, 7), " | norm ", number(r.grad_norm, 3, 7), " | lr ",
              scientific(r.lr));
  line += str(" | ", padded(grouped(std::llround(r.tokens_per_second)), 9), " tok/s");
  line += str(" | MFU ", r.mfu ? number(100 * *r.mfu, 1, 4) + "%" : "n/a");
  line += str(" | wait ", number(r.data_wait_ms, 1, 4), " ms");
  line += str(" | mem ", padded(human_bytes(static_cast<double>(r.memory_bytes)), 9));
  if (statistics) {
    const std::string share = r.zero_tile_share ? fixed(100 * *r.zero_tile_share, 1) + "%" : "-";
    const std::string support = r.mean_support ? fixed(*r.mean_support, 1) : "-";
    line += str(" | zero tiles ", padded(share, 6), " | support ", padded(support, 7));
    if (r.mean_passes) line += str(" | passes ", fixed(*r.mean_passes, 2));
  }
  return r.skipped ? line + " | skipped" : line;
}

std::string evaluation_line(const EvaluationRecord& r) {
  return str("evaluation after step ", r.step, ": loss ", fixed(r.loss, 4), ", perplexity ",
             fixed(r.perplexity, 2), " over ", grouped(r.target_tokens), " tokens, in ",
             human_duration(r.seconds), r.best ? ", the best yet" : "");
}

}  // namespace asplash::train
