#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

/// Alpha-entmax attention, forward and backward, on any GPU since Ampere (compute capability 8.0).
///
///     z_ij = (alpha - 1) (scale q_i . k_j - slope_h |i + offset - j|)       offset = k_len - q_len
///     p_ij = [z_ij - tau_i]_+ ^ r,  r = 1 / (alpha - 1),  sum_j p_ij = 1,  out_i = sum_j p_ij v_j
///     w_ij = p_ij ^ (2 - alpha),  mean_i = sum_j w_ij v_j / sum_j w_ij      (what the backward needs)
///
/// Algorithm: docs/kernels.md. Sources: Peters, Niculae & Martins 2019 (arXiv 1905.05702) for the
/// mathematics, AdaSplash-2 for the histogram initialization of the threshold.
namespace asplash::kernels {

/// Of query, key, value, out, mean_value and their gradients. Products are accumulated in fp32; fp32 inputs
/// are multiplied in fp32, too (slow: for checks, not for training).
enum class ElementType { bf16, fp16, fp32 };

/// [batch, heads, tokens, head_dim] in device memory, the last dimension contiguous; strides in elements,
/// data and strides multiples of 16 bytes.
struct AttentionTensor {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t head_stride = 0;
  int64_t token_stride = 0;
};

/// Token strides of tensors whose rows are gathered are at most this: of value, and in the backward of query,
/// key and grad_out, too.
constexpr int64_t kMaximalGatheredStride = int64_t{1} << 29;

/// Rows and keys are taken in tiles of kTile, counted from each document's first token.
constexpr int kTile = 64;

/// The backward goes by a row's keys with weight where these are at most so many, in the mean over an eighth
/// of its row tile, and no more than 256 in one row. Row tiles with more, and those whose lists the forward
/// lost, go by whole tiles.
constexpr int kSupportOfRow = 96;
/// What the support has of a head besides.
constexpr int kSupportWordsOfHead = 4;

struct EntmaxAttentionShape {
  ElementType type = ElementType::bf16;
  int head_dim = 0;  ///< 32, 64, 96, 128 or 256
  int batch = 0;     ///< 1 with cu_seqlens
  int heads = 0;
  int kv_heads = 0;  ///< divides heads; query head h uses key/value head h / (heads / kv_heads)
  int q_tokens = 0;
  int k_tokens = 0;
  int documents = 0;  ///< of cu_seqlens; 0: every batch entry is one document

  /// Row tiles of one (batch, head): exact without cu_seqlens, else an upper bound.
  constexpr int row_tiles() const { return (q_tokens + kTile - 1) / kTile + documents; }
  constexpr int key_tiles() const { return (k_tokens + kTile - 1) / kTile + documents; }
  /// A row tile's mask: words of a bit for each of its document's key tiles, then (not for fp32) row_bytes()
  /// for each of them that say which rows may give its keys weight.
  constexpr int tile_words() const { return (document_tiles() + 31) / 32; }
  /// 8, a bit a row, up to 32768 keys; then halved as often as these double, so that memory stays linear,
  /// down to 1 beyond 131072 keys: bits then stand for 2, 4, 8 rows. Beyond 262144 keys it grows with their
  /// square again.
  constexpr int row_bytes() const {
    return type == ElementType::fp32 ? 0
           : k_tokens <= 32768       ? 8
           : k_tokens <= 65536       ? 4
           : k_tokens <= 131072      ? 2
                                     : 1;
  }
  /// Where the row bits begin: on 8 bytes, like every row tile's mask.
  constexpr int row_bits_at() const { return (tile_words() + 1) / 2 * 2; }
  constexpr int mask_words() const {
    return type == ElementType::fp32 ? tile_words()
                                     : row_bits_at() + (document_tiles() * row_bytes() + 7) / 8 * 2;
  }
  constexpr int64_t mask_size() const { return int64_t{batch} * heads * row_tiles() * mask_words(); }
  /// Keys with weight that a row's support has room for (not for fp32).
  constexpr int support_of_row() const {
    return type == ElementType::fp32 ? 0 : k_tokens < kSupportOfRow ? k_tokens : kSupportOfRow;
  }
  /// Of a (batch, head): a word a row, a word for each of those keys, and kSupportWordsOfHead.
  constexpr int64_t support_words() const {
    return type == ElementType::fp32 ? 0 : int64_t{q_tokens} * (1 + support_of_row()) + kSupportWordsOfHead;
  }
  constexpr int64_t support_size() const { return int64_t{batch} * heads * support_words(); }
  /// Key tiles of one document, at most.
  constexpr int document_tiles() const { return (k_tokens + kTile - 1) / kTile; }
};

/// Counters that the forward adds to: kZeroTiles of kTiles visible tiles hold no positive weight, the support
/// of kRows rows (those that see a key) sums to kSupport, and kPasses + i of these rows were final after i +
/// 1 refinement steps from the scan's estimate, over their lists or over their tiles (the last counter: or
/// more).
struct EntmaxStatistics {
  enum : int { kZeroTiles, kTiles, kSupport, kRows, kPasses, kCounters = kPasses + 4 };
};

struct EntmaxAttentionParams {
  EntmaxAttentionShape shape;
  float alpha = 1.5F;  ///< in (1, 2]
  float scale = 1;
  bool causal = true;             ///< aligned at the end: query i sees keys j <= i + offset
  const float* slopes = nullptr;  ///< [heads], >= 0, or nullptr
  /// [documents + 1] token offsets, ascending from 0 to the number of tokens, or nullptr. They are not
  /// checked: what leads outside the tensors is not read.
  const int32_t* cu_q = nullptr;
  const int32_t* cu_k = nullptr;
  AttentionTensor query, key, value;
  AttentionTensor out;
  float* tau = nullptr;  ///< [batch, heads, q_tokens]; +infinity for rows without keys, NaN for broken rows
  /// For the backward, both or (no backward follows) neither: mean [batch, heads, q_tokens, head_dim],
  /// 16-byte aligned, and sum_j w_ij [batch, heads, q_tokens]. Rows of heads whose backward goes by the
  /// support may be left without a mean: their memory is not written.
  void* mean_value = nullptr;
  float* weight_sum = nullptr;
  /// [batch, heads, row_tiles, mask_words], 8-byte aligned: bit j of a row tile is set if key tile j may hold
  /// a positive weight; a clear bit is proof that it does not. Row bits likewise; their order within the
  /// tile is the kernels' own.
  uint32_t* tile_mask = nullptr;
  /// For the backward: shape.support_size() words, 8-byte aligned, 16-bit types only. It holds each row's
  /// keys with weight, so that the backward costs what the support does. nullptr in both calls: it goes by
  /// tiles.
  uint32_t* support = nullptr;
  /// Where a head's rows have more keys with weight than this, in the mean, in each key tile of which they
  /// have any, its backward goes by tiles, which then cost less; unless the forward, by three quarters of
  /// this, has left out some row's mean. At most 64. 0: everywhere; 64: nowhere, if the support fits; -1: 4
  /// for a head_dim of up to 64, 8 beyond, as measured (docs/kernels.md).
  int pairs_of_row = -1;
  unsigned long long* statistics = nullptr;  ///< nullptr, or EntmaxStatistics::kCounters
  /// How many row tiles a block of the forward's scan takes, where kernels of both kinds exist (16-bit types,
  /// head_dim up to 128): 1, 2, or 0: whichever is faster. Results agree within rounding.
  int scan_row_tiles = 0;
  /// entmax_forward_workspace or entmax_backward_workspace bytes, 256-byte aligned. Contents need not survive
  /// the call: the same memory serves every layer.
  void* workspace = nullptr;
};

struct EntmaxAttentionGradients {
  AttentionTensor grad_out;
  AttentionTensor grad_query, grad_key, grad_value;  ///< written
};

/// Bytes of workspace, linear in tokens. The forward's lists take 4 KiB a row, of 2^18 rows or one head's at
/// most. The backward takes 4 head_dim bytes a row and 8 head_dim a key of every head, and for pairs 768
/// bytes a row and 16 a row tile and key tile (of 1024 at most), of 2^18 rows or one key/value head's at
/// most.
size_t entmax_forward_workspace(const EntmaxAttentionShape& shape);
size_t entmax_backward_workspace(const EntmaxAttentionShape& shape);

/// Whether there are kernels for this head_dim.
bool entmax_attention_has_head_dim(int head_dim);

/// cudaSuccess if the current device can run the shape's kernels, cudaErrorNotSupported if it cannot (compute
/// capability below 8.0, too little shared memory), else what asking the device ended with.
cudaError_t entmax_attention_supported(const EntmaxAttentionShape& shape);

/// Enqueue on the stream and return: no allocation, no synchronization, capturable in a CUDA graph.
/// Deterministic, bitwise. A non-finite score makes its row NaN and no other; a non-finite value makes those
/// rows NaN that give it weight. cudaErrorInvalidValue for parameters outside what is stated here.
cudaError_t entmax_attention_forward(const EntmaxAttentionParams& params, cudaStream_t stream);

/// Takes tau, mean_value, weight_sum, tile_mask and support as the forward left them; out is not read.
/// grad_query of broken rows is NaN; they add nothing to grad_key and grad_value as long as their grad_out is
/// finite. A non-finite grad_out makes its row of grad_query not finite, and what it meets in grad_key and
/// grad_value.
cudaError_t entmax_attention_backward(const EntmaxAttentionParams& params,
                                      const EntmaxAttentionGradients& gradients, cudaStream_t stream);

}  // namespace asplash::kernels
