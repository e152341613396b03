#include "asplash/eval/sampling.h"

#include <algorithm>
#include <cmath>

#include "asplash/base/error.h"

namespace asplash::eval {
namespace {

/// Likelier first; equal ones in the order of their ids.
bool likelier(const std::pair<double, int32_t>& a, const std::pair<double, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

}  // namespace

TokenSampler::TokenSampler(const SamplingOptions& options, uint64_t seed) : options_(options), random_(seed) {
  if (!std::isfinite(options.temperature) || options.temperature < 0)
    fail("temperature ", options.temperature, ": must be a number of at least 0");
  if (options.top_k < 0) fail("top-k ", options.top_k, ": must be at least 1, or 0 for all tokens");
  if (!(options.top_p > 0 && options.top_p <= 1))
    fail("top-p ", options.top_p, ": must be above 0 and at most 1");
}

int32_t TokenSampler::sample(const std::vector<float>& logits) {
  if (logits.empty()) fail("sampling: no logits");
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isfinite(logits[i]))
      fail("sampling: the logit of token ", i, " is ", logits[i], ", not a number");
  if (options_.temperature == 0)
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());

  keep_top_k(logits);
  const double top = std::max_element(candidates_.begin(), candidates_.end())->first;
  for (Candidate& candidate : candidates_)
    candidate.first = std::exp((candidate.first - top) / options_.temperature);
  keep_top_p();

  double sum = 0;
  for (const Candidate& candidate : candidates_) sum += candidate.first;
  const double threshold = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;
  double cumulative = 0;
  int32_t token = 0;
  for (const Candidate& candidate : candidates_) {
    if (candidate.first == 0) continue;  // never drawn, also where the threshold rounds up to the sum
    token = candidate.second;
    cumulative += candidate.first;
    if (cumulative > threshold) break;
  }
  return token;
}

void TokenSampler::keep_top_k(const std::vector<float>& logits) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  if (options_.top_k == 0) return;
  const size_t k = std::min(static_cast<size_t>(options_.top_k), candidates_.size());
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(k);
  std::partial_sort(candidates_.begin(), end, candidates_.end(), likelier);
  candidates_.erase(end, candidates_.end());
}

void TokenSampler::keep_top_p() {
  if (options_.top_p >= 1) return;
  std::sort(candidates_.begin(), candidates_.end(), likelier);
  double sum = 0;
  for (const Candidate& candidate : candidates_) sum += candidate.first;
  double cumulative = 0;
  size_t kept = 0;
  while (kept < candidates_.size() && cumulative < options_.top_p * sum)
    cumulative += candidates_[kept++].first;
  candidates_.resize(std::max<size_t>(kept, 1));
}

}  // namespace asplash::eval
