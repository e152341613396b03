// Entry points of entmax attention: checks, the workspace, where documents' tiles begin, choice of the
// kernels.

#include <algorithm>

#include "asplash/kernels/entmax_attention.h"
#include "portable/entmax_finds.cuh"
#include "portable/entmax_fp32.h"
#include "portable/entmax_kernels.cuh"
#include "portable/entmax_pairs.cuh"

namespace asplash::kernels {
namespace portable {
namespace {

/// Exclusive sums of the documents' tiles, one block; blockIdx.x chooses queries or keys.
__global__ void tile_offsets_kernel(const __grid_constant__ Launch launch) {
  const EntmaxAttentionParams& p = launch.params;
  const int32_t* cu = blockIdx.x == 0 ? p.cu_q : p.cu_k;
  const int tokens = blockIdx.x == 0 ? p.shape.q_tokens : p.shape.k_tokens, documents = p.shape.documents;
  int32_t* begin = blockIdx.x == 0 ? launch.row_tile_begin : launch.key_tile_begin;
  __shared__ int sums[1024];
  __shared__ int carry;
  if (threadIdx.x == 0) carry = 0;
  for (int base = 0; base < documents; base += blockDim.x) {
    const int i = base + threadIdx.x;
    const int tiles = i < documents ? (token_range(cu, i, tokens).length + kTile - 1) / kTile : 0;
    sums[threadIdx.x] = tiles;
    __syncthreads();
    for (unsigned int step = 1; step < blockDim.x; step *= 2) {
      const int other = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
      __syncthreads();
      sums[threadIdx.x] += other;
      __syncthreads();
    }
    if (i < documents) begin[i] = carry + sums[threadIdx.x] - tiles;
    __syncthreads();
    if (threadIdx.x == 0) carry += sums[blockDim.x - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) begin[documents] = carry;
}

cudaError_t prepare_documents(const Launch& launch, cudaStream_t stream) {
  if (launch.params.cu_q == nullptr) return cudaSuccess;
  tile_offsets_kernel<<<2, 1024, 0, stream>>>(launch);
  return cudaGetLastError();
}

/// The kernels for the shape's type and head_dim. False where there are none.
bool choose(const EntmaxAttentionShape& shape, KernelSet& set) {
  switch (shape.head_dim) {
    case 32:
      set = kernel_set<32>(shape.type);
      break;
    case 64:
      set = kernel_set<64>(shape.type);
      break;
    case 96:
      set = kernel_set<96>(shape.type);
      break;
    case 128:
      set = kernel_set<128>(shape.type);
      break;
    case 256:
      set = kernel_set<256>(shape.type);
      break;
    default:
      return false;
  }
  if (shape.type == ElementType::fp32) {
    set = {entmax_fp32_shared_bytes, entmax_fp32_shared_bytes(shape), entmax_forward_fp32,
           entmax_backward_fp32};
  }
  return true;
}

/// Parts of the workspace, one after the other. Those that the backward clears beforehand stand together.
class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <typename T>
  void take(T*& part, size_t count) {
    part = reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += (count * sizeof(T) + 255) / 256 * 256;
  }
  size_t bytes() const { return bytes_; }

 private:
  char* memory_;
  size_t bytes_ = 0;
};

size_t lay_out(Launch& launch, const EntmaxAttentionShape& s, void* memory, bool backward) {
  Workspace workspace(memory);
  const size_t rows = size_t(s.batch) * s.heads * s.q_tokens, kv_heads = size_t(s.batch) * s.kv_heads;
  if (s.documents > 0) {
    workspace.take(launch.row_tile_begin, size_t(s.documents) + 1);
    workspace.take(launch.key_tile_begin, size_t(s.documents) + 1);
  }
  workspace.take(launch.key_facts, kv_heads * s.key_tiles());
  if (!backward) {
    workspace.take(launch.lower, rows);
    workspace.take(launch.crowd, rows);
    if (s.type != ElementType::fp32) {
      workspace.take(launch.list_lengths, rows);
      workspace.take(launch.lists, size_t(listed_heads(s)) * s.q_tokens * kListOfRow);
    }
    return workspace.bytes();
  }
  workspace.take(launch.delta, rows);
  workspace.take(launch.row_bound, rows);
  workspace.take(launch.broken_rows, size_t(s.batch) * s.heads);
  workspace.take(launch.value_maximum, kv_heads);
  workspace.take(launch.column_maximum, kv_heads * s.head_dim);
  workspace.take(launch.grad_query_sum, rows * s.head_dim / 2);
  if (has_pairs(s)) {
    const size_t heads = size_t(paired_kv_heads(s)) * (s.heads / s.kv_heads);
    workspace.take(launch.grad_key_part, kv_heads * s.k_tokens * s.head_dim);
    workspace.take(launch.grad_value_part, kv_heads * s.k_tokens * s.head_dim);
    workspace.take(launch.segments, heads * unit_count(s) * s.row_tiles());
    workspace.take(launch.pairs, heads * s.q_tokens * s.support_of_row());
  }
  return workspace.bytes();
}

bool valid_tensor(const AttentionTensor& t, ElementType type, int tokens) {
  const int64_t unit = type == ElementType::fp32 ? 4 : 8;
  return tokens == 0 ||
         (t.data != nullptr && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.batch_stride % unit == 0 &&
          t.head_stride % unit == 0 && t.token_stride % unit == 0);
}

bool valid(const EntmaxAttentionParams& p) {
  const EntmaxAttentionShape& s = p.shape;
  const auto well_formed = [&](const AttentionTensor& t, int tokens) {
    return valid_tensor(t, s.type, tokens);
  };
  return s.batch > 0 && s.heads > 0 && s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.q_tokens >= 0 &&
         s.k_tokens >= 0 && s.documents >= 0 && p.alpha > 1 && p.alpha <= 2 && p.scan_row_tiles >= 0 &&
         p.scan_row_tiles <= 2 && p.pairs_of_row >= -1 && p.pairs_of_row <= kTile && p.workspace != nullptr &&
         reinterpret_cast<uintptr_t>(p.workspace) % 256 == 0 && (p.cu_q != nullptr) == (s.documents > 0) &&
         (p.cu_k != nullptr) == (s.documents > 0) && (s.documents == 0 || s.batch == 1) && s.heads <= 65535 &&
         s.batch <= 65535 && well_formed(p.query, s.q_tokens) && well_formed(p.key, s.k_tokens) &&
         well_formed(p.value, s.k_tokens) &&
         (s.q_tokens == 0 || (p.tau != nullptr && (p.tile_mask != nullptr || s.k_tokens == 0) &&
                              reinterpret_cast<uintptr_t>(p.tile_mask) % 8 == 0 &&
                              reinterpret_cast<uintptr_t>(p.support) % 8 == 0 &&
                              reinterpret_cast<uintptr_t>(p.mean_value) % 16 == 0));
}

Launch make_launch(const EntmaxAttentionParams& p, bool backward) {
  Launch launch;
  launch.params = p;
  launch.slope_scale = p.alpha - 1;
  launch.z_scale = launch.slope_scale * p.scale;
  launch.inverse_z_scale = 1 / launch.z_scale;  // used where it is positive
  launch.exponent = p.alpha == 1.5F ? 2.0F : p.alpha == 2.0F ? 1.0F : 1 / (p.alpha - 1);
  if (!has_pairs(p.shape) || p.mean_value == nullptr || launch.exponent > kMaximalSupportExponent)
    launch.params.support = nullptr;
  if (p.pairs_of_row < 0) launch.params.pairs_of_row = p.shape.head_dim <= 64 ? 4 : 8;
  lay_out(launch, p.shape, p.workspace, backward);
  return launch;
}

}  // namespace
}  // namespace portable

size_t entmax_forward_workspace(const EntmaxAttentionShape& shape) {
  portable::Launch launch;
  return portable::lay_out(launch, shape, nullptr, false);
}

size_t entmax_backward_workspace(const EntmaxAttentionShape& shape) {
  portable::Launch launch;
  return portable::lay_out(launch, shape, nullptr, true);
}

bool entmax_attention_has_head_dim(int head_dim) {
  EntmaxAttentionShape shape;
  shape.head_dim = head_dim;
  portable::KernelSet set;
  return portable::choose(shape, set);
}

cudaError_t entmax_attention_supported(const EntmaxAttentionShape& shape) {
  portable::KernelSet set;
  if (!portable::choose(shape, set)) return cudaErrorNotSupported;
  int major = 0, shared = 0;
  for (const cudaError_t error :
       {portable::device_attribute(major, cudaDevAttrComputeCapabilityMajor),
        portable::device_attribute(shared, cudaDevAttrMaxSharedMemoryPerBlockOptin)}) {
    if (error != cudaSuccess) return error;
  }
  constexpr int kStatic = 2048;  // of the kernels, at most
  const int needed = std::max(set.forward_shared(shape), set.backward_shared) + kStatic;
  return major >= 8 && needed <= shared ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t entmax_attention_forward(const EntmaxAttentionParams& params, cudaStream_t stream) {
  portable::KernelSet set;
  if (!portable::valid(params) || !portable::choose(params.shape, set) ||
      !portable::valid_tensor(params.out, params.shape.type, params.shape.q_tokens) ||
      params.value.token_stride > kMaximalGatheredStride ||
      (params.mean_value != nullptr) != (params.weight_sum != nullptr))
    return cudaErrorInvalidValue;
  if (params.shape.q_tokens == 0) return cudaSuccess;
  const portable::Launch launch = portable::make_launch(params, false);
  if (const cudaError_t error = portable::prepare_documents(launch, stream); error != cudaSuccess)
    return error;
  return set.forward(launch, stream);
}

cudaError_t entmax_attention_backward(const EntmaxAttentionParams& params,
                                      const EntmaxAttentionGradients& gradients, cudaStream_t stream) {
  portable::KernelSet set;
  const EntmaxAttentionShape& s = params.shape;
  if (!portable::valid(params) || !portable::choose(s, set) ||
      !portable::valid_tensor(gradients.grad_out, s.type, s.q_tokens) ||
      !portable::valid_tensor(gradients.grad_query, s.type, s.q_tokens) ||
      !portable::valid_tensor(gradients.grad_key, s.type, s.k_tokens) ||
      !portable::valid_tensor(gradients.grad_value, s.type, s.k_tokens) ||
      params.query.token_stride > kMaximalGatheredStride ||
      params.key.token_stride > kMaximalGatheredStride ||
      params.value.token_stride > kMaximalGatheredStride ||
      gradients.grad_out.token_stride > kMaximalGatheredStride ||
      (s.q_tokens > 0 && (params.mean_value == nullptr || params.weight_sum == nullptr)))
    return cudaErrorInvalidValue;
  portable::Launch launch = portable::make_launch(params, true);
  launch.gradients = gradients;
  if (const cudaError_t error = portable::prepare_documents(launch, stream); error != cudaSuccess)
    return error;
  return set.backward(launch, stream);
}

}  // namespace asplash::kernels
