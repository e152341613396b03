#include "asplash/data/sampler.h"

#include "asplash/base/error.h"

namespace asplash::data {
namespace {

uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

}  // namespace

Sampler::Sampler(int64_t samples, uint64_t seed, bool shuffle)
    : samples_(samples), seed_(seed), shuffle_(shuffle), half_bits_(1) {
  if (samples < 0) fail("number of samples must not be negative, got ", samples);
  while (half_bits_ < 32 && uint64_t{1} << (2 * half_bits_) < static_cast<uint64_t>(samples)) ++half_bits_;
}

int64_t Sampler::window(int64_t epoch, int64_t sample) const {
  if (sample < 0 || sample >= samples_) fail("sample ", sample, " is outside the epoch's ", samples_);
  if (!shuffle_) return sample;
  const uint64_t key = mix(mix(seed_) + static_cast<uint64_t>(epoch));
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  auto value = static_cast<uint64_t>(sample);
  do {
    uint64_t left = value >> half_bits_;
    uint64_t right = value & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (mix(mix(key + round) ^ right) & mask);
      left = right;
      right = next;
    }
    value = left << half_bits_ | right;
  } while (value >= static_cast<uint64_t>(samples_));
  return static_cast<int64_t>(value);
}

}  // namespace asplash::data
