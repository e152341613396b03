#pragma once

#include <vector>

#include "asplash/ops/entmax_cpu_kernels.h"

namespace asplash::ops::cpu {

/// The fastest kernels that this processor runs.
template <class T>
const Kernels<T>& kernels();

template <class T>
struct NamedKernels {
  const char* name;
  const Kernels<T>* kernels;
};

/// All that this processor runs, fastest first: kernels() is the first; tests try each.
template <class T>
std::vector<NamedKernels<T>> all_kernels();

}  // namespace asplash::ops::cpu
