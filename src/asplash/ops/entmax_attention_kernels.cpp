#include "asplash/ops/entmax_attention_kernels.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>
#include <vector>

#include "asplash/kernels/entmax_attention.h"
#include "asplash/ops/entmax_attention.h"

namespace asplash::ops {
namespace {

using kernels::AttentionTensor;
using kernels::EntmaxAttentionParams;
using kernels::EntmaxAttentionShape;
using kernels::EntmaxStatistics;

static_assert(EntmaxStatistics::kCounters == kEntmaxStatistics);
static_assert(kernels::kSupportOfRow == kEntmaxSupport);
static_assert(kernels::kSupportWordsOfHead == kEntmaxSupportOfHead);

constexpr int64_t kAlignment = 16;  ///< bytes, of pointers and strides

kernels::ElementType element_type(at::ScalarType type) {
  switch (type) {
    case at::kBFloat16:
      return kernels::ElementType::bf16;
    case at::kHalf:
      return kernels::ElementType::fp16;
    case at::kFloat:
      return kernels::ElementType::fp32;
    default:
      TORCH_CHECK(false, "entmax_attention: query: the CUDA kernels take bfloat16, float16 or float32, got ",
                  type);
  }
}

int to_int(const char* name, int64_t value) {
  TORCH_CHECK(value <= std::numeric_limits<int>::max(), "entmax_attention: ", name, ": ", value,
              " is more than the CUDA kernels can count");
  return static_cast<int>(value);
}

EntmaxAttentionShape shape_of(const EntmaxArguments& arguments) {
  const at::Tensor& query = arguments.query;
  EntmaxAttentionShape shape;
  shape.type = element_type(query.scalar_type());
  shape.head_dim = to_int("head_dim", query.size(3));
  shape.batch = to_int("batch", query.size(0));
  shape.heads = to_int("heads", query.size(1));
  shape.kv_heads = to_int("kv_heads", arguments.key.size(1));
  shape.q_tokens = to_int("q_tokens", query.size(2));
  shape.k_tokens = to_int("k_tokens", arguments.key.size(2));
  if (arguments.cu_seqlens_q) {
    shape.documents = to_int("documents", arguments.cu_seqlens_q->size(0) - 1);
  }
  return shape;
}

/// cudaErrorNotSupported is returned as false.
bool is_supported(const EntmaxAttentionShape& shape) {
  const cudaError_t status = kernels::entmax_attention_supported(shape);
  if (status == cudaErrorNotSupported) return false;
  C10_CUDA_CHECK(status);
  return true;
}

/// No pair of a query and a key: nothing to launch.
bool is_empty(const EntmaxArguments& arguments) {
  return arguments.query.numel() == 0 || arguments.key.numel() == 0;
}

/// Where a dimension has one entry, its stride says nothing.
int64_t stride_of(const at::Tensor& tensor, int64_t dim) {
  return tensor.size(dim) > 1 ? tensor.stride(dim) : tensor.size(3);
}

/// The tensor itself where the kernels can read it, else a copy.
at::Tensor readable(const at::Tensor& tensor) {
  const int64_t bytes = tensor.element_size();
  bool aligned =
      tensor.stride(3) == 1 && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kAlignment == 0;
  for (int64_t dim = 0; dim < 3; ++dim) {
    aligned = aligned && stride_of(tensor, dim) * bytes % kAlignment == 0;
  }
  aligned = aligned && stride_of(tensor, 2) <= kernels::kMaximalGatheredStride;
  return aligned ? tensor : tensor.clone(at::MemoryFormat::Contiguous);
}

AttentionTensor layout_of(const at::Tensor& tensor, void* data) {
  return {data, stride_of(tensor, 0), stride_of(tensor, 1), stride_of(tensor, 2)};
}

AttentionTensor input(const at::Tensor& tensor) {
  return layout_of(tensor,
                   const_cast<void*>(tensor.const_data_ptr()));  // AttentionTensor serves outputs, too
}

AttentionTensor output(const at::Tensor& tensor) { return layout_of(tensor, tensor.mutable_data_ptr()); }

/// The operands as the kernels read them; they live at least until the kernels are enqueued.
struct Operands {
  explicit Operands(const EntmaxArguments& arguments)
      : query(readable(arguments.query)), key(readable(arguments.key)), value(readable(arguments.value)) {
    if (arguments.alibi_slopes) slopes = arguments.alibi_slopes->contiguous();
    if (arguments.cu_seqlens_q) {
      cu_seqlens_q = arguments.cu_seqlens_q->contiguous();
      cu_seqlens_k = arguments.cu_seqlens_k->contiguous();
    }
  }
  at::Tensor query, key, value, slopes, cu_seqlens_q, cu_seqlens_k;
};

EntmaxAttentionParams params_of(const EntmaxArguments& arguments, const Operands& operands) {
  EntmaxAttentionParams params;
  params.shape = shape_of(arguments);
  params.alpha = static_cast<float>(arguments.alpha);
  params.scale = static_cast<float>(entmax_scale(arguments));
  params.causal = arguments.causal;
  if (operands.slopes.defined()) params.slopes = operands.slopes.const_data_ptr<float>();
  if (operands.cu_seqlens_q.defined()) {
    params.cu_q = operands.cu_seqlens_q.const_data_ptr<int32_t>();
    params.cu_k = operands.cu_seqlens_k.const_data_ptr<int32_t>();
  }
  params.query = input(operands.query);
  params.key = input(operands.key);
  params.value = input(operands.value);
  return params;
}

at::Tensor workspace(size_t bytes, const at::Tensor& query) {
  return at::empty({static_cast<int64_t>(bytes)}, query.options().dtype(at::kByte));
}

at::Tensor empty_tile_mask(const EntmaxAttentionShape& shape, const at::Tensor& query) {
  return at::empty({shape.batch, shape.heads, shape.row_tiles(), shape.mask_words()},
                   query.options().dtype(at::kInt));
}

/// Of means not every row is written. PyTorch fills memory with NaN where all shall be the same every time,
/// but what compares results takes no NaN for another.
at::Tensor empty_means(const at::Tensor& query) {
  return at::globalContext().deterministicAlgorithms() ? at::zeros(query.sizes(), query.options())
                                                       : at::empty(query.sizes(), query.options());
}

std::vector<int64_t> support_sizes(const EntmaxAttentionShape& shape) {
  return {shape.batch, shape.heads, shape.support_words()};
}

/// Mask and support are made of unsigned words, for which ATen has few operators. nullptr where there are
/// none.
uint32_t* words_of(const at::Tensor& words) {
  return words.numel() == 0 ? nullptr : static_cast<uint32_t*>(const_cast<void*>(words.const_data_ptr()));
}

/// Outputs where no query sees a key.
void fill_without_keys(const EntmaxForward& result) {
  result.out.zero_();
  result.tau.fill_(std::numeric_limits<float>::infinity());
  if (!result.means.mean_value.defined()) return;
  result.means.mean_value.zero_();
  result.means.weight_sum.zero_();
  result.means.tile_mask.zero_();
  result.means.support.zero_();
}

void check_means(const EntmaxMeans& means, const EntmaxArguments& arguments) {
  const at::Tensor& query = arguments.query;
  const EntmaxAttentionShape shape = shape_of(arguments);
  const auto check = [&](const char* name, const at::Tensor& tensor, at::IntArrayRef sizes,
                         at::ScalarType type) {
    TORCH_CHECK(tensor.sizes() == sizes && tensor.scalar_type() == type &&
                    tensor.device() == query.device() && tensor.is_contiguous(),
                "entmax_attention: ", name, ": expected the contiguous ", type, " ", sizes, " on ",
                query.device(), " that entmax_attention_forward returns with for_backward=True, got ",
                tensor.scalar_type(), " ", tensor.sizes(), " on ", tensor.device());
  };
  check("mean_value", means.mean_value, query.sizes(), query.scalar_type());
  check("weight_sum", means.weight_sum, query.sizes().slice(0, 3), at::kFloat);
  check("tile_mask", means.tile_mask, {shape.batch, shape.heads, shape.row_tiles(), shape.mask_words()},
        at::kInt);
  check("support", means.support, support_sizes(shape), at::kInt);
}

}  // namespace

bool has_entmax_kernels(int64_t head_dim) {
  return head_dim <= std::numeric_limits<int>::max() &&
         kernels::entmax_attention_has_head_dim(static_cast<int>(head_dim));
}

std::string entmax_kernel_sizes() {
  std::string list;
  for (int head_dim = 1; head_dim <= 1024; ++head_dim) {
    if (!kernels::entmax_attention_has_head_dim(head_dim)) continue;
    if (!list.empty()) list += ", ";
    list += std::to_string(head_dim);
  }
  return list;
}

bool entmax_kernels_run_on(const at::Tensor& query, int64_t head_dim) {
  if (c10::cuda::device_count() == 0) return true;
  const c10::cuda::CUDAGuard on_device(query.device());
  EntmaxAttentionShape shape;
  shape.type = element_type(query.scalar_type());
  shape.head_dim = to_int("head_dim", head_dim);
  shape.batch = shape.heads = shape.kv_heads = shape.q_tokens = shape.k_tokens = 1;
  return is_supported(shape);
}

EntmaxForward entmax_forward_kernels(const EntmaxArguments& arguments, bool with_statistics,
                                     bool for_backward) {
  check_entmax_arguments(arguments);
  const at::Tensor& query = arguments.query;
  const c10::cuda::CUDAGuard on_device(query.device());
  const auto rows = query.sizes().slice(0, 3);
  const at::TensorOptions fp32 = query.options().dtype(at::kFloat);
  EntmaxForward result{empty_heads_like(query),
                       at::empty(rows, fp32),
                       at::zeros({with_statistics ? kEntmaxStatistics : 0}, query.options().dtype(at::kLong)),
                       {}};
  const EntmaxAttentionShape shape = shape_of(arguments);
  const at::Tensor tile_mask = empty_tile_mask(shape, query);
  if (for_backward)
    result.means = {empty_means(query), at::empty(rows, fp32), tile_mask,
                    at::empty(support_sizes(shape), query.options().dtype(at::kInt))};
  if (is_empty(arguments)) {
    fill_without_keys(result);
  } else {
    const Operands operands(arguments);
    EntmaxAttentionParams params = params_of(arguments, operands);
    TORCH_CHECK(is_supported(params.shape), "entmax_attention: key: ", params.shape.k_tokens,
                " tokens need more shared memory than the GPU has");
    params.out = output(result.out);
    params.tau = result.tau.mutable_data_ptr<float>();
    params.tile_mask = words_of(tile_mask);
    if (for_backward) {
      params.mean_value = result.means.mean_value.mutable_data_ptr();
      params.weight_sum = result.means.weight_sum.mutable_data_ptr<float>();
      params.support = words_of(result.means.support);
    }
    if (with_statistics) {
      params.statistics = static_cast<unsigned long long*>(result.statistics.mutable_data_ptr());
    }
    const at::Tensor memory = workspace(kernels::entmax_forward_workspace(params.shape), query);
    params.workspace = memory.mutable_data_ptr();
    C10_CUDA_CHECK(kernels::entmax_attention_forward(params, c10::cuda::getCurrentCUDAStream()));
  }
  result.statistics = result.statistics.to(at::kDouble);
  return result;
}

EntmaxBackward entmax_backward_kernels(const at::Tensor& grad_out, const at::Tensor& tau,
                                       const EntmaxMeans& means, const EntmaxArguments& arguments) {
  check_entmax_arguments(arguments);
  check_entmax_backward(grad_out, tau, arguments);
  check_means(means, arguments);
  const at::Tensor& query = arguments.query;
  const c10::cuda::CUDAGuard on_device(query.device());
  EntmaxBackward result{empty_heads_like(query), empty_heads_like(arguments.key),
                        empty_heads_like(arguments.value)};
  if (is_empty(arguments)) {
    for (const at::Tensor& grad : {result.query, result.key, result.value}) grad.zero_();
    return result;
  }
  const Operands operands(arguments);
  const at::Tensor grad = readable(grad_out), thresholds = tau.contiguous();
  EntmaxAttentionParams params = params_of(arguments, operands);
  params.tau = const_cast<float*>(thresholds.const_data_ptr<float>());
  params.mean_value = const_cast<void*>(means.mean_value.const_data_ptr());
  params.weight_sum = const_cast<float*>(means.weight_sum.const_data_ptr<float>());
  params.tile_mask = words_of(means.tile_mask);
  params.support = words_of(means.support);
  const at::Tensor memory = workspace(kernels::entmax_backward_workspace(params.shape), query);
  params.workspace = memory.mutable_data_ptr();
  const kernels::EntmaxAttentionGradients gradients{input(grad), output(result.query), output(result.key),
                                                    output(result.value)};
  C10_CUDA_CHECK(kernels::entmax_attention_backward(params, gradients, c10::cuda::getCurrentCUDAStream()));
  return result;
}

}  // namespace asplash::ops
