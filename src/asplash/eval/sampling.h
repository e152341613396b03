#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace asplash::eval {

struct SamplingOptions {
  double temperature = 1.0;  ///< logits are divided by it; 0: always the likeliest token
  int64_t top_k = 0;         ///< only the k likeliest tokens; 0: all
  double top_p = 1.0;  ///< only the smallest set of likeliest tokens that holds this probability; 1: all
};

/// Draws tokens from logits on the host, the same for the same seed on every platform and standard library.
///
/// One std::mt19937_64 seeded with `seed`; each draw at a temperature above 0 takes one value x of it as
/// u = (x >> 11) * 2^-53 in [0, 1). The logits are divided by the temperature, the k largest kept, their
/// softmax taken in fp64, of that the shortest prefix (likeliest first) whose sum reaches top_p; the token is
/// the first one whose cumulative share of what is kept exceeds u. The sum runs likeliest first (equal logits
/// in the order of their ids) where top_k or top_p is used, in the order of the ids where neither is.
class TokenSampler {
 public:
  /// Throws asplash::Error unless temperature >= 0 (finite), top_k >= 0 and 0 < top_p <= 1.
  TokenSampler(const SamplingOptions& options, uint64_t seed);

  /// The next token. Throws asplash::Error for an empty vector or a logit that is not finite.
  int32_t sample(const std::vector<float>& logits);

 private:
  using Candidate = std::pair<double, int32_t>;  // weight (first the logit), token

  void keep_top_k(const std::vector<float>& logits);
  void keep_top_p();

  SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<Candidate> candidates_;
};

}  // namespace asplash::eval
