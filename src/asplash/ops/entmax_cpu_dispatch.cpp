#include "asplash/ops/entmax_cpu_kernels.h"

namespace asplash::ops::cpu {

#define ASPLASH_DECLARE_KERNELS(isa)       \
  namespace isa {                          \
  const Kernels<float>& float_kernels();   \
  const Kernels<double>& double_kernels(); \
  }
ASPLASH_DECLARE_KERNELS(baseline)
#if defined(__x86_64__)
ASPLASH_DECLARE_KERNELS(avx2)
ASPLASH_DECLARE_KERNELS(avx512)
#endif
#undef ASPLASH_DECLARE_KERNELS

namespace {

enum class Isa { baseline, avx2, avx512 };

Isa detect() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa isa() {
  static const Isa detected = detect();
  return detected;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return avx512::float_kernels();
  if (isa() == Isa::avx2) return avx2::float_kernels();
#endif
  return baseline::float_kernels();
}

template <>
const Kernels<double>& kernels<double>() {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return avx512::double_kernels();
  if (isa() == Isa::avx2) return avx2::double_kernels();
#endif
  return baseline::double_kernels();
}

}  // namespace asplash::ops::cpu
