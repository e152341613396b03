#include "asplash/ops/softmax_attention.h"

#include <ATen/ATen.h>

#include <cmath>

#include "asplash/base/error.h"
#include "asplash/ops/documents.h"
#include "asplash/ops/masked_attention.h"

namespace asplash::ops {
namespace {

using at::Tensor;

bool half_on_cuda(const Tensor& x) {
  return x.is_cuda() && (x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf);
}

void check_arguments(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor* slopes,
                     const Documents* documents) {
  const auto expect = [](bool ok, const char* what, const auto&... seen) {
    if (!ok) fail("softmax_attention: ", what, seen...);
  };
  expect(query.dim() == 4, "query must be [batch, heads, tokens, head_dim], got ", query.sizes());
  expect(key.dim() == 4 && key.sizes() == value.sizes() && key.size(0) == query.size(0) &&
             key.size(3) == query.size(3),
         "key and value must be [batch, kv_heads, tokens, head_dim] beside query ", query.sizes(), ", got ",
         key.sizes(), " and ", value.sizes());
  expect(key.size(1) > 0 && query.size(1) % key.size(1) == 0,
         "query heads must be a multiple of key/value heads, got ", query.size(1), " and ", key.size(1));
  expect(key.size(2) >= query.size(2), "key must hold at least the query's tokens, got ", key.size(2),
         " for ", query.size(2));
  expect(!slopes || (slopes->dim() == 1 && slopes->size(0) == query.size(1)),
         "alibi_slopes must be [heads], got another size for heads ", query.size(1));
  expect(!documents || (query.size(0) == 1 && query.size(2) == documents->tokens() &&
                        key.size(2) == documents->tokens()),
         "documents need batch 1 and all their tokens in query and key, got ", query.sizes(), " and ",
         key.sizes());
}

/// Repeats key/value heads for kernels without grouped queries.
Tensor repeat_heads(const Tensor& x, int64_t heads) {
  const int64_t kv_heads = x.size(1);
  if (kv_heads == heads) return x;
  return x.unsqueeze(2)
      .expand({x.size(0), kv_heads, heads / kv_heads, x.size(2), x.size(3)})
      .reshape({x.size(0), heads, x.size(2), x.size(3)});
}

Tensor pad_last(const Tensor& x, int64_t to) {
  return x.size(-1) == to ? x : at::constant_pad_nd(x, {0, to - x.size(-1)});
}

/// Query, key and value as a kernel without biases takes them.
struct KernelInputs {
  Tensor query, key, value;
  double scale;
};

/// Puts the bias into further head dimensions; value is padded, since not all kernels accept another size.
KernelInputs with_alibi(const KernelInputs& in, const Tensor& slopes, const Tensor& positions) {
  Tensor query_dims, key_dims;
  alibi_dims(slopes, positions, in.scale, in.query, query_dims, key_dims);
  const int64_t batch = in.query.size(0), heads = in.query.size(1), kv_heads = in.key.size(1);
  const int64_t q_tokens = in.query.size(2), k_tokens = in.key.size(2);
  const Tensor query_tail =
      query_dims.view({1, heads, 1, kAlibiDims}).expand({batch, heads, q_tokens, kAlibiDims});
  const Tensor key_tail =
      key_dims.view({1, 1, k_tokens, kAlibiDims}).expand({batch, kv_heads, k_tokens, kAlibiDims});
  return {at::cat({in.query, query_tail}, 3), at::cat({in.key, key_tail}, 3),
          pad_last(in.value, in.value.size(3) + kAlibiDims), in.scale};
}

Tensor fused_causal(const KernelInputs& in) {
  const bool grouped = half_on_cuda(in.query);  // flash and cuDNN only
  const int64_t heads = in.query.size(1);
  return at::scaled_dot_product_attention(in.query, grouped ? in.key : repeat_heads(in.key, heads),
                                          grouped ? in.value : repeat_heads(in.value, heads),
                                          /*attn_mask=*/{}, /*dropout_p=*/0.0,
                                          /*is_causal=*/in.query.size(2) > 1, in.scale,
                                          /*enable_gqa=*/grouped && heads != in.key.size(1));
}

/// One sequence for each batch entry.
Tensor dense(const KernelInputs& in, const Tensor* slopes) {
  const int64_t q_tokens = in.query.size(2), k_tokens = in.key.size(2), heads = in.query.size(1);
  if (slopes && in.query.is_cuda()) {
    const Tensor positions = at::arange(k_tokens, in.query.options().dtype(at::kLong));
    return dense(with_alibi(in, *slopes, positions), nullptr).narrow(3, 0, in.value.size(3));
  }
  // With one query, all keys are visible: the causal flag (which aligns at the start) is not needed.
  if (!slopes && (q_tokens == k_tokens || q_tokens == 1)) return fused_causal(in);
  return masked_causal_attention(in.query, repeat_heads(in.key, heads), repeat_heads(in.value, heads), slopes,
                                 in.scale);
}

/// All documents in one call of the flash kernel, which takes [tokens, heads, head_dim].
Tensor packed_flash(const KernelInputs& plain, const Tensor* slopes, const Documents& documents) {
  const KernelInputs in = slopes ? with_alibi(plain, *slopes, documents.positions) : plain;
  const int64_t padded = (in.query.size(3) + 7) / 8 * 8;
  const auto token_major = [&](const Tensor& x) { return pad_last(x.squeeze(0).transpose(0, 1), padded); };
  const auto results = at::_flash_attention_forward(
      token_major(in.query), token_major(in.key), token_major(in.value), documents.cu_seqlens,
      documents.cu_seqlens, documents.longest, documents.longest, /*dropout_p=*/0.0, /*is_causal=*/true,
      /*return_debug_mask=*/false, in.scale);
  return std::get<0>(results).narrow(2, 0, plain.value.size(3)).transpose(0, 1).unsqueeze(0);
}

Tensor one_by_one(const KernelInputs& in, const Tensor* slopes, const Documents& documents) {
  std::vector<Tensor> outputs;
  for (int64_t d = 0; d < documents.count(); ++d) {
    const int64_t begin = documents.boundaries[d];
    const int64_t length = documents.boundaries[d + 1] - begin;
    if (length == 0) continue;
    const auto part = [&](const Tensor& x) { return x.narrow(2, begin, length); };
    outputs.push_back(dense({part(in.query), part(in.key), part(in.value), in.scale}, slopes));
  }
  return outputs.empty() ? at::empty_like(in.query) : at::cat(outputs, 2);
}

}  // namespace

void alibi_dims(const Tensor& slopes, const Tensor& positions, double scale, const Tensor& like,
                Tensor& query_dims, Tensor& key_dims) {
  constexpr int64_t kBase = 128;
  const auto type = like.scalar_type();
  const Tensor slope = slopes.to(like.device(), at::kDouble) / scale;
  const Tensor high = slope.to(type);
  const Tensor low = (slope - high).to(type);
  const Tensor unit = at::zeros_like(high);
  // Powers of two times bf16 values are exact: every digit sees the same slope.
  query_dims = at::stack(
      {high * (kBase * kBase), low * (kBase * kBase), high * kBase, low * kBase, high, low, unit, unit}, 1);
  const Tensor ones_digit = positions.remainder(kBase).to(type);
  const Tensor middle_digit = positions.floor_divide(kBase).remainder(kBase).to(type);
  const Tensor top_digit = positions.floor_divide(kBase * kBase).to(type);
  const Tensor none = at::zeros_like(ones_digit);
  key_dims =
      at::stack({top_digit, top_digit, middle_digit, middle_digit, ones_digit, ones_digit, none, none}, 1);
}

Tensor softmax_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                         const Tensor* alibi_slopes, const Documents* documents) {
  check_arguments(query, key, value, alibi_slopes, documents);
  const KernelInputs in{query, key, value, 1.0 / std::sqrt(static_cast<double>(query.size(3)))};
  if (!documents) return dense(in, alibi_slopes);
  return half_on_cuda(query) ? packed_flash(in, alibi_slopes, *documents)
                             : one_by_one(in, alibi_slopes, *documents);
}

}  // namespace asplash::ops
