#pragma once

#include <cstdint>

namespace asplash::data {

/// Where training stands in the data: two integers, independent of ranks and batch size.
struct Position {
  int64_t epoch = 0;
  int64_t sample = 0;  ///< samples of this epoch already taken, over all ranks
};

/// Maps the global sample index of an epoch to a window of the data: a keyed pseudo-random permutation
/// (a four-round Feistel network over the smallest even number of bits that holds `samples`, walking the cycle
/// until the value falls below `samples`; no table, any size).
class Sampler {
 public:
  Sampler(int64_t samples, uint64_t seed, bool shuffle);
  int64_t samples() const { return samples_; }
  /// The window index, 0 <= w < samples, of `sample` in `epoch`.
  int64_t window(int64_t epoch, int64_t sample) const;

 private:
  int64_t samples_;
  uint64_t seed_;
  bool shuffle_;
  int half_bits_;
};

}  // namespace asplash::data
