#pragma once

#include <cstdint>

namespace asplash::text {

/// A pseudo-random number that depends on (seed, number) alone: the finalizer of SplitMix64 (Steele, Lea and
/// Flood 2014) applied to both in turn.
inline uint64_t random_key(uint64_t seed, uint64_t number) {
  const auto mix = [](uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
  };
  return mix(mix(seed) ^ number);
}

/// The same as a number in [0, 1).
inline double random_share(uint64_t seed, uint64_t number) {
  return static_cast<double>(random_key(seed, number) >> 11) * 0x1p-53;
}

}  // namespace asplash::text
