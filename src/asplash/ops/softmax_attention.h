#pragma once

#include <cstdint>

namespace at {
class Tensor;
}

/// Dense causal attention by libtorch's scaled_dot_product_attention kernels, with what those lack: ALiBi
/// biases, packed documents and queries that are the last ones of a longer sequence, in memory linear in
/// tokens.
namespace asplash::ops {

struct Documents;

/// softmax(query . key / sqrt(head_dim) - slope * (i - j)) value over the keys j <= i, queries aligned with
/// the end of the keys; differentiable in query, key and value.
///
/// query:        [batch, heads, q_tokens, head_dim]; fp32, bf16 or fp64
/// key, value:   [batch, kv_heads, k_tokens, head_dim], k_tokens >= q_tokens, heads % kv_heads == 0; query
///               head h uses key/value head h / (heads / kv_heads)
/// alibi_slopes: [heads] fp32 on the device, or nullptr: no position bias
/// documents:    boundaries that attention does not cross, or nullptr; then batch is 1 and q_tokens ==
///               k_tokens == documents->tokens()
/// Returns [batch, heads, q_tokens, head_dim]. Throws asplash::Error naming the argument.
///
/// On CUDA in bf16 it takes the flash or cuDNN kernel, with ALiBi as further head dimensions (AlibiDims); on
/// the CPU, ALiBi is an exact mask made for some rows at a time, also again in the backward pass. Queries
/// fewer than the keys are meant for decoding: on CUDA their gradients would hold masks quadratic in tokens.
at::Tensor softmax_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                             const at::Tensor* alibi_slopes = nullptr, const Documents* documents = nullptr);

/// ALiBi without a mask: appended to the head dimension, the entries add slope * j to the scaled scores of
/// key j (a row's softmax does not change by adding slope * i to all its scores). j is written in digits of
/// base 128, exact in bf16 for j < 2^22; the slope is split into two summands of the type, so that the bias
/// is right to 2^-16 in bf16.
///
/// slopes:    [heads] fp32
/// positions: [tokens] int64, from 0 (from 0 in each document, where packed)
/// scale:     what the kernel multiplies the scores with
/// Receives query_dims [heads, 8] and key_dims [tokens, 8] in `like`'s type on its device.
void alibi_dims(const at::Tensor& slopes, const at::Tensor& positions, double scale, const at::Tensor& like,
                at::Tensor& query_dims, at::Tensor& key_dims);

/// Dimensions that alibi_dims appends; a multiple of 8, as the kernels want.
constexpr int64_t kAlibiDims = 8;

}  // namespace asplash::ops
