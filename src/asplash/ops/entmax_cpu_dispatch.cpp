#include "asplash/ops/entmax_cpu_dispatch.h"

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

struct Variant {
  const char* name;
  const Kernels<float>* of_float;
  const Kernels<double>* of_double;
};

std::vector<Variant> detect() {
  std::vector<Variant> variants;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    variants.push_back({"avx512", &avx512::float_kernels(), &avx512::double_kernels()});
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    variants.push_back({"avx2", &avx2::float_kernels(), &avx2::double_kernels()});
  }
#endif
  variants.push_back({"baseline", &baseline::float_kernels(), &baseline::double_kernels()});
  return variants;
}

const std::vector<Variant>& variants() {
  static const std::vector<Variant> detected = detect();
  return detected;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return *variants().front().of_float;
}

template <>
const Kernels<double>& kernels<double>() {
  return *variants().front().of_double;
}

template <>
std::vector<NamedKernels<float>> all_kernels<float>() {
  std::vector<NamedKernels<float>> result;
  for (const Variant& variant : variants()) result.push_back({variant.name, variant.of_float});
  return result;
}

template <>
std::vector<NamedKernels<double>> all_kernels<double>() {
  std::vector<NamedKernels<double>> result;
  for (const Variant& variant : variants()) result.push_back({variant.name, variant.of_double});
  return result;
}

}  // namespace asplash::ops::cpu
