#pragma once

#include <cstdint>

namespace asplash::data {

/// Where training stands in the data: two integers, independent of ranks and batch size.
struct Position {
  int64_t epoch = 0;
  int64_t sample = 0;  ///< samples of this epoch already taken, over all ranks
};

/// Maps the global sample index of an epoch to a window of the data: a keyed pseudo-random permutation
/// (a four-round Feistel network over the smallest even number of bits that holds `samples`, at least 2,
/// walking the cycle until the value falls below `samples`; no table, any size). All arithmetic is modulo
/// 2^64:
///
///     mix(x):    x += 0x9E3779B97F4A7C15                        (SplitMix64: Steele, Lea and Flood 2014)
///                x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9
///                x = (x ^ x >> 27) * 0x94D049BB133111EB
///                return x ^ x >> 31
///     key     =  mix(mix(seed) + epoch)
///     half    =  the smallest h >= 1 with 2^(2h) >= samples;  mask = 2^half - 1
///     window(sample):
///                v = sample
///                do {  left = v >> half;  right = v & mask
///                      for round in 0, 1, 2, 3:
///                        left, right = right, left ^ (mix(mix(key + round) ^ right) & mask)
///                      v = left << half | right
///                } while (v >= samples)
///                return v
///
/// Without shuffling window(sample) = sample.
class Sampler {
 public:
  /// Throws asplash::Error for a negative number of samples.
  Sampler(int64_t samples, uint64_t seed, bool shuffle);
  int64_t samples() const { return samples_; }
  /// The window index, 0 <= w < samples, of `sample` in `epoch`. Throws asplash::Error unless
  /// 0 <= sample < samples().
  int64_t window(int64_t epoch, int64_t sample) const;

 private:
  int64_t samples_;
  uint64_t seed_;
  bool shuffle_;
  int half_bits_;
};

}  // namespace asplash::data
