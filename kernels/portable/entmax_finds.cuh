#pragma once

#include <algorithm>

#include "portable/tiles.cuh"

/// Lists of what the scan finds: the scores of each row above the bound that its threshold had when they came
/// by, with their keys. At the scan's end a row's list holds its whole support, so that its threshold can be
/// solved exactly and its output gathered (entmax_sparse_output.cuh) without another product.
///
/// A row's keys are shared by the four lanes of a quad, each of which has a list of its own in global memory.
/// When one is nearly full, the warp solves its rows' bounds again and drops what now lies below. If that
/// does not help, the warp's rows are lost: some support is too large for its lists, and their row tiles are
/// left to the kernel that takes whole tiles (entmax_output.cuh).
namespace asplash::kernels::portable {

constexpr int kListOfLane = 128;              ///< finds, at most
constexpr int kListFull = kListOfLane - 8;    ///< a step may add 8
constexpr int kListLost = kListFull * 3 / 4;  ///< so many left by the latest bound: there will be too many
constexpr int kListOfRow = 4 * kListOfLane;
constexpr uint32_t kLostList = 255;  ///< as the length of a list

/// Lists take 4 KiB a row, so that not all heads have them at once: as many as have so many rows, or one.
constexpr int kListedRows = 1 << 18;
inline int listed_heads(const EntmaxAttentionShape& s) {
  const int64_t heads = int64_t{s.batch} * s.heads;
  return static_cast<int>(std::min(heads, int64_t{std::max(kListedRows / std::max(s.q_tokens, 1), 1)}));
}

struct __align__(8) Find {
  float z;
  int key;  ///< of the document
};

/// Where `yes`: list[at] = find.
__device__ inline void store_find(Find* list, uint32_t at, float z, int key, bool yes) {
  static_assert(sizeof(Find) == 8);
  asm volatile(
      "{\n"
      ".reg .pred yes;\n"
      ".reg .b64 to;\n"
      "setp.ne.s32 yes, %4, 0;\n"
      "mad.wide.u32 to, %1, 8, %0;\n"
      "@yes st.global.v2.b32 [to], {%2, %3};\n"
      "}\n" ::"l"(list),
      "r"(at), "r"(__float_as_uint(z)), "r"(key), "r"(static_cast<int>(yes))
      : "memory");
}

/// A lane's lists, one for each of its `rows` rows: row r lies r / 2 tiles and r % 2 * 8 rows below row 0.
template <int rows>
struct LaneLists {
  static_assert(rows <= 4);
  Find* first;           ///< that of row 0
  uint32_t lengths = 0;  ///< a byte a row
  bool lost = false;     ///< the same in the warp

  __device__ int length(int r) const { return static_cast<int>(lengths >> 8 * r & 255); }
  /// To the list of the row whose byte in `lengths` begins at bit `shift`, rows_below row 0.
  __device__ void add(int rows_below, int shift, float z, int key, bool yes) {
    yes = yes && !lost;
    store_find(first, rows_below * kListOfRow + (lengths >> shift & 255), z, key, yes);
    lengths += static_cast<uint32_t>(yes) << shift;
  }
  /// Whether some list of the warp may not take another step.
  __device__ bool full() const {
    return __any_sync(0xFFFFFFFFU, (lengths + 0x01010101U * (127 - kListFull) & 0x80808080U) != 0);
  }
  /// Drops what does not lie above `bounds`.
  __device__ void compact(const float (&bounds)[rows]) {
    constexpr int kBatch = 8;
    bool too_many = false;
#pragma unroll 1
    for (int r = 0; r < rows; ++r) {
      float bound = bounds[0];
#pragma unroll
      for (int i = 1; i < rows; ++i) bound = r == i ? bounds[i] : bound;
      Find* list = first + (r / 2 * kTile + r % 2 * 8) * kListOfRow;
      const int count = length(r);
      int kept = 0;
#pragma unroll 1
      for (int at = 0; at < count; at += kBatch) {
        Find batch[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) batch[i] = list[min(at + i, count - 1)];
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          if (at + i < count && batch[i].z > bound) list[kept++] = batch[i];
      }
      too_many |= kept > kListLost;
      lengths = (lengths & ~(255U << 8 * r)) | static_cast<uint32_t>(kept) << 8 * r;
    }
    lost = __any_sync(0xFFFFFFFFU, too_many);
    if (lost) lengths = 0;
  }
};

/// Lengths of the four lists of a row.
struct ListLengths {
  uint32_t packed;

  __device__ int of(int list) const { return static_cast<int>(packed >> 8 * list & 255); }
  __device__ int sum() const { return static_cast<int>(__dp4a(packed, 0x01010101U, 0U)); }
  /// Whether one holds `power` finds, a power of two, or more.
  __device__ bool some_has(uint32_t power) const { return (packed & (256 - power) * 0x01010101U) != 0; }
  __device__ bool lost() const { return packed == kLostList * 0x01010101U; }
};

/// A row's four lists, one after the other.
__device__ inline Find* list_of_row(const Launch& launch, const RowPlace& place, int row) {
  return launch.lists +
         (place.row_index + row - int64_t{launch.first_head} * launch.params.shape.q_tokens) * kListOfRow;
}

/// Whether no row of the block's tile is lost. The block meets.
__device__ inline bool rows_are_listed(const Launch& launch, const RowPlace& place) {
  bool lost = false;
  if (static_cast<int>(threadIdx.x) < place.rows)
    lost = ListLengths{launch.list_lengths[place.row_index + threadIdx.x]}.lost();
  return __syncthreads_or(lost) == 0;
}

}  // namespace asplash::kernels::portable
