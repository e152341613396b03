// Alone in a file because it is compiled with OpenMP: at::parallel_for is serial in files that are not, and
// those that share the precompiled header cannot be.

#include "asplash/ops/entmax_cpu_threads.h"

#include <omp.h>

#include <atomic>
#include <exception>

#ifndef _OPENMP
#error "compile this file with OpenMP"
#endif

namespace asplash::ops::cpu {
namespace {

constexpr double kWorthThreads = 2e6;  // some ten microseconds: what waking the threads costs

void work(int64_t count, const std::function<Worker()>& make_worker, std::atomic<int64_t>& next) {
  if (next.load() >= count) return;
  const Worker worker = make_worker();
  for (int64_t unit = next++; unit < count; unit = next++) worker(unit);
}

}  // namespace

void run_units(int64_t count, double operations, const std::function<Worker()>& make_worker) {
  std::atomic<int64_t> next{0};
  if (count <= 1 || operations < kWorthThreads || omp_in_parallel() != 0)
    return work(count, make_worker, next);
  std::exception_ptr failure;
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  // No num_threads clause: GOMP would rebuild its pool of threads (see ATen/ParallelOpenMP.h).
#pragma omp parallel
  {
    try {
      work(count, make_worker, next);
    } catch (...) {
      next = count;
      if (!failed.test_and_set()) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace asplash::ops::cpu
