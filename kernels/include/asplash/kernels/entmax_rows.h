#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

/// Row-wise entmax: exact thresholds of rows of scores.
namespace asplash::kernels {

/// Row r holds z at scores + r * row_stride and may use the columns [first[r % range_rows], last[r %
/// range_rows]) of 0 .. columns - 1, so that the rows of many heads share one set of ranges. All pointers are
/// device memory.
struct EntmaxRowsParams {
  void* scores = nullptr;         ///< in: z; out: p = [z - tau]_+^exponent, 0 outside the range
  bool double_precision = false;  ///< scores and tau are fp64, else fp32
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;          ///< in numbers, >= columns
  const int64_t* first = nullptr;  ///< [range_rows], or nullptr: 0
  const int64_t* last = nullptr;   ///< [range_rows], or nullptr: columns
  int64_t range_rows = 1;
  double exponent = 2;         ///< 1 / (alpha - 1), >= 1: 2 for alpha = 1.5, 1 for alpha = 2
  void* tau = nullptr;         ///< [rows]: sum p = 1; +infinity for an empty range
  int32_t* support = nullptr;  ///< [rows]: number of positive p, or nullptr
};

/// Enqueues on the stream and returns; nothing is synchronized. A row with a score that is not finite becomes
/// NaN (p in its range and tau; support 0), no other does. Deterministic. The threshold is solved until the
/// support is stable; each step at least halves the distance while far from the root and squares it when
/// near. Returns cudaErrorInvalidValue for parameters outside the stated ranges, else what the launch
/// returns.
cudaError_t entmax_rows(const EntmaxRowsParams& params, cudaStream_t stream);

}  // namespace asplash::kernels
