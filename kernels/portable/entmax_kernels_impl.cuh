#pragma once

#include <algorithm>

#include "portable/entmax_kernels.cuh"
#include "portable/entmax_output.cuh"
#include "portable/entmax_pair_keys.cuh"
#include "portable/entmax_pair_rows.cuh"
#include "portable/entmax_prepare.cuh"
#include "portable/entmax_scan.cuh"
#include "portable/entmax_sparse_output.cuh"

namespace asplash::kernels::portable {

template <typename Kernel, typename... Arguments>
cudaError_t launch_threads(int threads, Kernel kernel, dim3 grid, int shared_bytes, cudaStream_t stream,
                           const Launch& launch, Arguments... arguments) {
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
      error != cudaSuccess)
    return error;
  cudaFuncAttributes compiled;
  if (const cudaError_t error = cudaFuncGetAttributes(&compiled, kernel); error != cudaSuccess) return error;
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = compiled.ptxVersion >= 90 ? 1 : 0;  // the kernel waits by itself (launch.cuh)
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, launch, arguments...);
  cudaGetLastError();  // it is returned: no later call shall find it
  return error;
}
template <typename Kernel, typename... Arguments>
cudaError_t launch_kernel(Kernel kernel, dim3 grid, int shared_bytes, cudaStream_t stream,
                          const Launch& launch, Arguments... arguments) {
  return launch_threads(kThreads, kernel, grid, shared_bytes, stream, launch, arguments...);
}

/// Keys or values of a query head, or what it has of them.
inline int64_t bytes_of_keys(const EntmaxAttentionShape& s) {
  return int64_t{s.k_tokens} * s.head_dim * 2 * s.kv_heads / s.heads;
}

/// Queries of the query heads of a key/value head, or their gradients.
inline int64_t bytes_of_rows(const EntmaxAttentionShape& s) {
  return int64_t{s.q_tokens} * s.head_dim * 2 * s.heads / s.kv_heads;
}

template <typename T, int head_dim, int row_tiles>
cudaError_t launch_scan(const Launch& launch, int heads, cudaStream_t stream) {
  const EntmaxAttentionShape& s = launch.params.shape;
  // With documents row tiles cannot be paired in advance.
  const int tiles = s.documents == 0 ? (s.row_tiles() + row_tiles - 1) / row_tiles : s.row_tiles();
  const BlockOrder order = block_order(tiles, heads);
  return launch_kernel(entmax_scan_kernel<T, head_dim, row_tiles>, order.blocks(),
                       Scan<T, head_dim, row_tiles>::shared_bytes(s.tile_words()), stream, launch, order);
}

/// Blocks of two row tiles are faster where there are many of them; else a long one ends alone.
template <typename T, int head_dim>
cudaError_t choose_scan(const Launch& launch, int heads, cudaStream_t stream) {
  if constexpr (head_dim <= 128) {
    const EntmaxAttentionShape& s = launch.params.shape;
    if (launch.params.scan_row_tiles == 1) return launch_scan<T, head_dim, 1>(launch, heads, stream);
    if (launch.params.scan_row_tiles == 2) return launch_scan<T, head_dim, 2>(launch, heads, stream);
    int processors = 0;
    if (const cudaError_t error = device_attribute(processors, cudaDevAttrMultiProcessorCount);
        error != cudaSuccess)
      return error;
    constexpr int kBlocks = Scan<T, head_dim, 2>::kBlocks, kRounds = 2;
    if (int64_t{s.row_tiles()} / 2 * heads > int64_t{kRounds} * kBlocks * processors)
      return launch_scan<T, head_dim, 2>(launch, heads, stream);
  }
  return launch_scan<T, head_dim, 1>(launch, heads, stream);
}

/// Where pairs do not fit into a block's shared memory (99 KiB, heads of 128 or 256), all goes by tiles:
/// neither call has a support.
template <typename T, int head_dim>
cudaError_t choose_ways(Launch& launch) {
  int per_block = 0;
  if (const cudaError_t error = device_attribute(per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
      error != cudaSuccess)
    return error;
  constexpr int kStatic = 1024;  // at most
  const int needed = std::max(PairKeys<T, head_dim>::kSharedBytes,
                              pair_rows_shared_bytes<T, head_dim>(unit_count(launch.params.shape)));
  if (needed + kStatic > per_block) launch.params.support = nullptr;
  return cudaSuccess;
}

template <typename T, int head_dim>
cudaError_t launch_forward(const Launch& asked, cudaStream_t stream) {
  Launch launch = asked;
  if (const cudaError_t error = choose_ways<T, head_dim>(launch); error != cudaSuccess) return error;
  const EntmaxAttentionShape& s = launch.params.shape;
  if (const cudaError_t error =
          launch_kernel(key_facts_kernel<T, head_dim>, dim3(std::max(s.key_tiles(), 1), s.kv_heads, s.batch),
                        0, stream, launch);
      error != cudaSuccess)
    return error;
  const int heads = s.batch * s.heads, at_once = listed_heads(s);
  for (Launch part = launch; part.first_head < heads; part.first_head += at_once) {
    const int count = std::min(at_once, heads - part.first_head);
    if (const cudaError_t error = choose_scan<T, head_dim>(part, count, stream); error != cudaSuccess)
      return error;
    const BlockOrder order = block_order(s.row_tiles(), count, bytes_of_keys(s), kCacheOfRows);
    if (const cudaError_t error =
            launch_threads(kRowThreads, entmax_sparse_output_kernel<T, head_dim>, order.blocks(),
                           SparseOutput<T, head_dim>::shared_bytes(s.document_tiles()), stream, part, order);
        error != cudaSuccess)
      return error;
  }
  return launch_kernel(entmax_output_kernel<T, head_dim>, dim3(s.row_tiles(), s.heads, s.batch),
                       Output<T, head_dim>::kSharedBytes, stream, launch);
}

/// Two stages of queries and gradients, unless that costs a block on a multiprocessor.
template <typename T, int head_dim>
cudaError_t choose_stages(int& stages) {
  using Layout = Backward<T, head_dim>;
  int per_block = 0, per_processor = 0, reserved = 0;
  for (const cudaError_t error :
       {device_attribute(per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin),
        device_attribute(per_processor, cudaDevAttrMaxSharedMemoryPerMultiprocessor),
        device_attribute(reserved, cudaDevAttrReservedSharedMemoryPerBlock)}) {
    if (error != cudaSuccess) return error;
  }
  constexpr int kStatic = 1280;  // at most
  const auto blocks = [&](int count) {
    const int bytes = Layout::shared_bytes(count) + kStatic;
    return bytes > per_block ? 0 : std::min(Layout::kBlocks, per_processor / (bytes + reserved));
  };
  stages = blocks(2) >= blocks(1) ? 2 : 1;
  return cudaSuccess;
}

/// What the support knows of, for `kv_heads` of [batch x kv_heads] from launch.first_head on.
template <typename T, int head_dim>
cudaError_t launch_pair_rows(const Launch& launch, int kv_heads, cudaStream_t stream) {
  const EntmaxAttentionShape& s = launch.params.shape;
  const BlockOrder order =
      block_order(s.row_tiles(), kv_heads * (s.heads / s.kv_heads), 2 * bytes_of_keys(s), kCacheOfRows);
  return launch_threads(kRowThreads, entmax_pair_rows_kernel<T, head_dim>, order.blocks(),
                        pair_rows_shared_bytes<T, head_dim>(unit_count(s)), stream, launch, order);
}

template <typename T, int head_dim>
cudaError_t launch_pair_keys(const Launch& launch, int kv_heads, cudaStream_t stream) {
  const EntmaxAttentionShape& s = launch.params.shape;
  using Layout = PairKeys<T, head_dim>;
  const BlockOrder order = block_order(s.key_tiles(), kv_heads * Layout::kChunks,
                                       2 * bytes_of_rows(s) / Layout::kChunks, kCacheOfKeys);
  return launch_threads(kPairThreads, entmax_pair_keys_kernel<T, head_dim>, order.blocks(),
                        Layout::kSharedBytes, stream, launch, order);
}

/// What goes by tiles. Where nothing does, blocks leave at once.
template <typename T, int head_dim>
cudaError_t launch_tiles(const Launch& launch, cudaStream_t stream) {
  const EntmaxAttentionShape& s = launch.params.shape;
  using Layout = Backward<T, head_dim>;
  int stages = 0;
  if (const cudaError_t error = choose_stages<T, head_dim>(stages); error != cudaSuccess) return error;
  constexpr int kRows = RowWalk<head_dim>::kRows;
  const int row_blocks = (s.q_tokens + kRows - 1) / kRows;
  const unsigned int key_blocks = s.k_tokens > 0 ? static_cast<unsigned int>(s.key_tiles()) * s.kv_heads : 0;
  const dim3 facts_grid(key_blocks + static_cast<unsigned int>(row_blocks) * s.heads, s.batch);
  if (facts_grid.x == 0) return cudaSuccess;
  if (const cudaError_t error =
          launch_kernel(backward_facts_kernel<T, head_dim>, facts_grid, 0, stream, launch);
      error != cudaSuccess)
    return error;
  if (s.k_tokens > 0) {
    const BlockOrder order = block_order(s.key_tiles(), s.batch * s.kv_heads * Layout::kChunks);
    if (const cudaError_t error = launch_kernel(entmax_backward_kernel<T, head_dim>, order.blocks(),
                                                Layout::shared_bytes(stages), stream, launch, order, stages);
        error != cudaSuccess)
      return error;
  }
  if (s.q_tokens == 0) return cudaSuccess;
  return launch_kernel(finish_grad_query_kernel<T, head_dim>, dim3(row_blocks, s.heads, s.batch), 0, stream,
                       launch);
}

/// Tiles come before pair keys, which add what tiles leave, and behind pair rows, in whose shadow their
/// blocks leave where there is nothing to do.
template <typename T, int head_dim>
cudaError_t launch_backward(const Launch& asked, cudaStream_t stream) {
  Launch launch = asked;
  if (const cudaError_t error = choose_ways<T, head_dim>(launch); error != cudaSuccess) return error;
  const EntmaxAttentionShape& s = launch.params.shape;
  // broken_rows, value_maximum and column_maximum lie one after the other.
  const char* end =
      reinterpret_cast<const char*>(launch.column_maximum + int64_t{s.batch} * s.kv_heads * head_dim);
  const size_t bytes = static_cast<size_t>(end - reinterpret_cast<const char*>(launch.broken_rows));
  if (const cudaError_t error = cudaMemsetAsync(launch.broken_rows, 0, bytes, stream); error != cudaSuccess)
    return error;
  if (launch.params.support == nullptr) return launch_tiles<T, head_dim>(launch, stream);
  const int kv_heads = s.batch * s.kv_heads, at_once = paired_kv_heads(s), group = s.heads / s.kv_heads;
  for (int first = 0; first < kv_heads; first += at_once) {
    const int count = std::min(at_once, kv_heads - first);
    Launch part = launch;
    part.first_head = first * group;
    if (const cudaError_t error = launch_pair_rows<T, head_dim>(part, count, stream); error != cudaSuccess)
      return error;
    if (first == 0) {
      if (const cudaError_t error = launch_tiles<T, head_dim>(launch, stream); error != cudaSuccess)
        return error;
    }
    if (const cudaError_t error = launch_pair_keys<T, head_dim>(part, count, stream); error != cudaSuccess)
      return error;
  }
  return cudaSuccess;
}

template <typename T, int head_dim>
KernelSet kernel_set_of() {
  const auto forward_shared = [](const EntmaxAttentionShape& s) {
    constexpr int kRowTiles = head_dim <= 128 ? 2 : 1;
    return std::max({Scan<T, head_dim, kRowTiles>::shared_bytes(s.tile_words()),
                     SparseOutput<T, head_dim>::shared_bytes(s.document_tiles()),
                     Output<T, head_dim>::kSharedBytes});
  };
  return {forward_shared, Backward<T, head_dim>::shared_bytes(1), launch_forward<T, head_dim>,
          launch_backward<T, head_dim>};
}

template <int head_dim>
KernelSet kernel_set(ElementType type) {
  return type == ElementType::bf16 ? kernel_set_of<__nv_bfloat16, head_dim>()
                                   : kernel_set_of<__half, head_dim>();
}

}  // namespace asplash::kernels::portable
