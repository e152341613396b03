#include "asplash/ops/masked_attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

namespace asplash::ops {
namespace {

using at::Tensor;

/// Bytes of one mask.
constexpr int64_t kMaskBytes = int64_t{8} << 20;

at::ScalarType mask_type(const Tensor& query) {
  return query.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Query rows [begin, begin + rows) and the keys they see, [0, keys).
struct Chunk {
  int64_t begin, rows, keys;
};

std::vector<Chunk> chunks_of(const Tensor& query, const Tensor& key, const Tensor* slopes) {
  const int64_t q_tokens = query.size(2), k_tokens = key.size(2);
  const int64_t mask_heads = slopes ? query.size(1) : 1;
  const int64_t row_bytes = mask_heads * k_tokens * static_cast<int64_t>(sizeof(float));
  const int64_t rows = std::max<int64_t>(16, kMaskBytes / std::max<int64_t>(1, row_bytes));
  std::vector<Chunk> chunks;
  for (int64_t begin = 0; begin < q_tokens; begin += rows) {
    const int64_t count = std::min(rows, q_tokens - begin);
    chunks.push_back({begin, count, k_tokens - q_tokens + begin + count});
  }
  return chunks;
}

/// [1, heads or 1, rows, keys]: -slope * (i - j), -infinity where j > i.
Tensor mask_of(const Chunk& chunk, const Tensor& query, const Tensor* slopes) {
  const auto options = query.options().dtype(mask_type(query));
  const Tensor i = at::arange(chunk.keys - chunk.rows, chunk.keys, options).unsqueeze(1);
  const Tensor distance = i - at::arange(chunk.keys, options);
  const Tensor future = distance.lt(0);
  const double hidden = -std::numeric_limits<double>::infinity();
  if (!slopes)
    return at::zeros_like(distance).masked_fill_(future, hidden).view({1, 1, chunk.rows, chunk.keys});
  const Tensor slope = slopes->to(options).view({-1, 1, 1});
  return (distance * slope.neg()).masked_fill_(future, hidden).unsqueeze(0);
}

class MaskedAttentionOnCpu : public torch::autograd::Function<MaskedAttentionOnCpu> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& query, const Tensor& key,
                        const Tensor& value, const std::optional<Tensor>& slopes, double scale) {
    const Tensor* slopes_or_null = slopes ? &*slopes : nullptr;
    Tensor output = at::empty_like(query, at::MemoryFormat::Contiguous);
    std::vector<Tensor> log_sums;  // [batch, rows, heads] each
    for (const Chunk& chunk : chunks_of(query, key, slopes_or_null)) {
      auto [part, log_sum] = at::_scaled_dot_product_flash_attention_for_cpu(
          query.narrow(2, chunk.begin, chunk.rows), key.narrow(2, 0, chunk.keys),
          value.narrow(2, 0, chunk.keys), 0.0, false, mask_of(chunk, query, slopes_or_null), scale);
      output.narrow(2, chunk.begin, chunk.rows).copy_(part);
      log_sums.push_back(log_sum);
    }
    torch::autograd::variable_list saved = {query, key, value, output, slopes.value_or(Tensor())};
    saved.insert(saved.end(), log_sums.begin(), log_sums.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["scale"] = scale;
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &query = saved[0], &key = saved[1], &value = saved[2], &output = saved[3];
    const Tensor* slopes = saved[4].defined() ? &saved[4] : nullptr;
    const double scale = ctx->saved_data["scale"].toDouble();
    Tensor query_grad = at::empty_like(query, at::MemoryFormat::Contiguous);
    // Sums over chunks: in fp32 at least.
    Tensor key_grad = at::zeros_like(key, key.options().dtype(mask_type(query)));
    Tensor value_grad = at::zeros_like(value, value.options().dtype(mask_type(query)));
    size_t index = 5;
    for (const Chunk& chunk : chunks_of(query, key, slopes)) {
      const auto rows = [&](const Tensor& x) { return x.narrow(2, chunk.begin, chunk.rows); };
      const auto keys = [&](const Tensor& x) { return x.narrow(2, 0, chunk.keys); };
      auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          rows(grad_outputs[0]), rows(query), keys(key), keys(value), rows(output), saved[index++], 0.0,
          false, mask_of(chunk, query, slopes), scale);
      rows(query_grad).copy_(dq);
      keys(key_grad).add_(dk);
      keys(value_grad).add_(dv);
    }
    return {query_grad, key_grad.to(key.scalar_type()), value_grad.to(value.scalar_type()), Tensor(),
            Tensor()};
  }
};

}  // namespace

Tensor masked_causal_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                               const Tensor* alibi_slopes, double scale) {
  if (query.is_cpu()) {
    const std::optional<Tensor> slopes = alibi_slopes ? std::make_optional(*alibi_slopes) : std::nullopt;
    return MaskedAttentionOnCpu::apply(query, key, value, slopes, scale);
  }
  std::vector<Tensor> outputs;
  for (const Chunk& chunk : chunks_of(query, key, alibi_slopes)) {
    outputs.push_back(at::scaled_dot_product_attention(
        query.narrow(2, chunk.begin, chunk.rows), key.narrow(2, 0, chunk.keys),
        value.narrow(2, 0, chunk.keys), mask_of(chunk, query, alibi_slopes).to(query.scalar_type()), 0.0,
        false, scale));
  }
  return at::cat(outputs, 2);
}

}  // namespace asplash::ops
