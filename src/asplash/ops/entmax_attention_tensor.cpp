// Entmax attention by tensor operations: chunks of queries whose scores with every visible key fit a fixed
// budget, so memory is linear in tokens. The reference that the kernels are held against, on any device; on
// CUDA it also serves fp64 and GPUs that the kernels do not.

#include <limits>

#include "asplash/ops/entmax_attention.h"
#include "asplash/ops/entmax_problem.h"
#ifdef ASPLASH_HAVE_CUDA
#include "asplash/ops/entmax_attention_cuda.h"
#endif

namespace asplash::ops {
namespace {

constexpr int64_t kTile = 64;
constexpr int64_t kScoreBytes = int64_t{64}
                                << 20;  // one chunk's scores; a few tensors of this size live at once

/// Some heads' queries [query_begin, query_begin + queries) of a document with its first `keys` keys.
struct Chunk {
  const EntmaxDocument* document;
  int64_t head_begin;  ///< among batch * kv_heads
  int64_t heads;
  int64_t query_begin;  ///< relative to the document, a multiple of kTile
  int64_t queries;
  int64_t keys;  ///< all that the last query sees

  int64_t query_token() const { return document->query_begin + query_begin; }
};

std::vector<Chunk> split(const EntmaxProblem& p, int64_t bytes_per_score) {
  const int64_t all_heads = p.batch * p.kv_heads;
  std::vector<Chunk> chunks;
  for (const EntmaxDocument& document : p.documents) {
    const int64_t row_bytes = std::max<int64_t>(1, document.keys) * p.group() * bytes_per_score;
    const int64_t heads =
        std::clamp<int64_t>(kScoreBytes / (row_bytes * kTile), 1, std::max<int64_t>(1, all_heads));
    const int64_t queries = std::max(kTile, kScoreBytes / (row_bytes * heads) / kTile * kTile);
    for (int64_t head = 0; head < all_heads; head += heads) {
      for (int64_t begin = 0; begin < document.queries; begin += queries) {
        const int64_t count = std::min(queries, document.queries - begin);
        int64_t keys = document.keys;
        if (p.causal) keys = std::clamp<int64_t>(begin + count + document.offset(), 0, keys);
        chunks.push_back({&document, head, std::min(heads, all_heads - head), begin, count, keys});
      }
    }
  }
  return chunks;
}

/// Operands in the compute type, the query heads of a group folded beside each other.
struct Operands {
  Operands(const EntmaxArguments& arguments, const EntmaxProblem& p)
      : query(fold_query(arguments.query, p)),
        key(fold_key(arguments.key, p)),
        value(fold_key(arguments.value, p)) {
    if (arguments.alibi_slopes) {
      slopes = arguments.alibi_slopes->to(query.scalar_type())
                   .view({1, p.kv_heads, p.group()})
                   .expand({p.batch, p.kv_heads, p.group()})
                   .reshape({p.batch * p.kv_heads, p.group(), 1, 1});
    }
  }

  static at::Tensor fold_query(const at::Tensor& tensor, const EntmaxProblem& p) {
    return tensor.to(entmax_compute_type(tensor))
        .reshape({p.batch * p.kv_heads, p.group(), p.q_tokens, p.head_dim});
  }
  static at::Tensor fold_key(const at::Tensor& tensor, const EntmaxProblem& p) {
    return tensor.to(entmax_compute_type(tensor)).reshape({p.batch * p.kv_heads, p.k_tokens, p.head_dim});
  }

  at::Tensor query;   ///< [batch * kv_heads, group, q_tokens, head_dim]
  at::Tensor key;     ///< [batch * kv_heads, k_tokens, head_dim]
  at::Tensor value;   ///< like key
  at::Tensor slopes;  ///< [batch * kv_heads, group, 1, 1], or undefined
};

/// The chunk's part of a [batch * kv_heads, group, q_tokens, ..] tensor.
at::Tensor query_part(const at::Tensor& tensor, const Chunk& chunk) {
  return tensor.narrow(0, chunk.head_begin, chunk.heads).narrow(2, chunk.query_token(), chunk.queries);
}

/// The chunk's part of a [batch * kv_heads, k_tokens, head_dim] tensor.
at::Tensor key_part(const at::Tensor& tensor, const Chunk& chunk) {
  return tensor.narrow(0, chunk.head_begin, chunk.heads).narrow(1, chunk.document->key_begin, chunk.keys);
}

/// [heads, group, queries, x] as [heads, group * queries, x] for one product a key/value head.
at::Tensor rows_of_group(const at::Tensor& tensor) {
  return tensor.reshape({tensor.size(0), tensor.size(1) * tensor.size(2), tensor.size(3)});
}

/// Number of leading keys of the chunk that each of its queries sees: int64 [queries].
at::Tensor visible_keys(const EntmaxProblem& p, const Chunk& chunk, const at::Device& device) {
  const at::TensorOptions options = at::TensorOptions().dtype(at::kLong).device(device);
  if (!p.causal) return at::full({chunk.queries}, chunk.keys, options);
  const int64_t first = chunk.query_begin + chunk.document->offset() + 1;
  return at::arange(first, first + chunk.queries, options).clamp_(0, chunk.keys);
}

/// z of every pair of the chunk, visible or not: [heads, group, queries, keys].
at::Tensor all_scores(const EntmaxProblem& p, const Operands& operands, const Chunk& chunk) {
  const at::Tensor query = rows_of_group(query_part(operands.query, chunk));
  at::Tensor z = at::bmm(query, key_part(operands.key, chunk).transpose(1, 2)).mul_((p.alpha - 1) * p.scale);
  z = z.view({chunk.heads, p.group(), chunk.queries, chunk.keys});
  if (operands.slopes.defined()) {
    const at::TensorOptions options = z.options();
    const int64_t first = chunk.query_begin + chunk.document->offset();
    const at::Tensor position = at::arange(first, first + chunk.queries, options).unsqueeze(1);
    const at::Tensor distance = (position - at::arange(chunk.keys, options)).abs_();
    z.addcmul_(operands.slopes.narrow(0, chunk.head_begin, chunk.heads), distance, -(p.alpha - 1));
  }
  return z;
}

/// [queries, keys]: true where the key is not visible.
at::Tensor hidden_pairs(const at::Tensor& visible, int64_t keys) {
  return at::arange(keys, visible.options()).unsqueeze(0).ge(visible.unsqueeze(1));
}

/// w = u^(r-1) where u > 0, else 0.
at::Tensor slope_weights(const at::Tensor& u, double exponent) {
  if (exponent == 2.0) return u;
  if (exponent == 1.0) return u.gt(0).to(u.scalar_type());
  return u.pow(exponent - 1);
}

/// The threshold of each row of w = z - max z, by Newton's steps from the left on the r-norm of [w - tau]_+
/// (see entmax_cpu_kernels.cpp) until no row moves. [..., keys] -> [..., 1]
at::Tensor relative_thresholds(const at::Tensor& w, double exponent) {
  const double tolerance = w.scalar_type() == at::kDouble ? 1e-15 : 5e-7;
  at::Tensor threshold = at::full_like(w.narrow(-1, 0, 1), -1);
  double largest_step = 1;
  while (largest_step > tolerance) {
    const at::Tensor u = (w - threshold).clamp_min_(0);
    const at::Tensor weights = slope_weights(u, exponent);
    const at::Tensor total = weights.mul(u).sum(-1, true);
    const at::Tensor step = (total - total.pow(1 - 1 / exponent)) / weights.sum(-1, true);
    threshold.add_(step);
    largest_step = step.nan_to_num(0, 0, 0).max().item<double>();
  }
  return threshold;
}

/// z -> p in place; returns tau [heads, group, queries]: +infinity for rows without keys, NaN for rows with a
/// score that is not finite.
at::Tensor weights_in_place(at::Tensor& z, const at::Tensor& visible, double exponent) {
#ifdef ASPLASH_HAVE_CUDA
  if (z.is_cuda()) return entmax_weights_cuda(z, visible, exponent);
#endif
  const at::Tensor hidden = hidden_pairs(visible, z.size(-1));
  const at::Tensor broken = z.isfinite().logical_or_(hidden).all(-1).logical_not_();
  z.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  at::Tensor maximum = z.amax(-1, true);
  maximum.masked_fill_(visible.eq(0).unsqueeze(-1), 0);
  z.sub_(maximum);
  const at::Tensor threshold = relative_thresholds(z, exponent);
  z.sub_(threshold).clamp_min_(0).pow_(exponent);
  z.masked_fill_(visible.eq(0).unsqueeze(-1), 0);  // no key: 0 / 0 above
  z.masked_fill_(broken.unsqueeze(-1), std::numeric_limits<double>::quiet_NaN());
  return (maximum + threshold)
      .squeeze(-1)
      .masked_fill_(visible.eq(0), std::numeric_limits<double>::infinity())
      .masked_fill_(broken, std::numeric_limits<double>::quiet_NaN());
}

/// Adds the chunk's zero tiles, tiles, support and rows to the first four of the statistics.
void count(const EntmaxProblem& p, const Chunk& chunk, const at::Tensor& weights, const at::Tensor& visible,
           at::Tensor& statistics) {
  const auto to_tiles = [](int64_t tokens) { return (tokens + kTile - 1) / kTile; };
  int64_t tiles = 0;
  for (int64_t begin = 0; begin < chunk.queries; begin += kTile) {
    const int64_t last =
        chunk.query_begin + std::min(begin + kTile, chunk.queries) + chunk.document->offset();
    tiles += to_tiles(p.causal ? std::clamp<int64_t>(last, 0, chunk.keys) : chunk.keys);
  }
  tiles *= chunk.heads * p.group();
  const int64_t row_tiles = to_tiles(chunk.queries), key_tiles = to_tiles(chunk.keys);
  const at::Tensor positive = weights.gt(0);
  const at::Tensor occupied =
      at::constant_pad_nd(positive, {0, key_tiles * kTile - chunk.keys, 0, row_tiles * kTile - chunk.queries})
          .view({chunk.heads * p.group(), row_tiles, kTile, key_tiles, kTile})
          .any(4)
          .any(2)
          .sum();
  const at::Tensor rows = visible.gt(0).sum() * (chunk.heads * p.group());
  statistics.narrow(0, 0, 4).add_(
      at::stack({tiles - occupied, at::full_like(occupied, tiles), positive.sum(), rows}).to(at::kDouble));
}

at::Tensor restored(const at::Tensor& folded, const at::Tensor& like) {
  return as_heads_like(like, folded.view(like.sizes()));
}

}  // namespace

EntmaxForward entmax_forward_tensor(const EntmaxArguments& arguments, bool with_statistics) {
  const at::NoTF32Guard full_precision;
  const EntmaxProblem p = check_entmax(arguments);
  const Operands operands(arguments, p);
  const at::Tensor out = at::zeros_like(operands.query);
  const at::Tensor tau = at::full({p.batch * p.kv_heads, p.group(), p.q_tokens},
                                  std::numeric_limits<double>::infinity(), operands.query.options());
  at::Tensor statistics =
      at::zeros({with_statistics ? kEntmaxStatistics : 0}, operands.query.options().dtype(at::kDouble));
  for (const Chunk& chunk : split(p, operands.query.element_size())) {
    if (chunk.keys == 0) continue;
    at::Tensor weights = all_scores(p, operands, chunk);
    const at::Tensor visible = visible_keys(p, chunk, weights.device());
    query_part(tau, chunk).copy_(weights_in_place(weights, visible, p.exponent()));
    const at::Tensor part = query_part(out, chunk);
    part.copy_(at::bmm(rows_of_group(weights), key_part(operands.value, chunk)).view(part.sizes()));
    if (with_statistics) count(p, chunk, weights, visible, statistics);
  }
  return {restored(out, arguments.query), tau.view({p.batch, p.heads, p.q_tokens}), statistics, {}};
}

EntmaxBackward entmax_backward_tensor(const at::Tensor& grad_out, const at::Tensor& tau,
                                      const EntmaxArguments& arguments) {
  const at::NoTF32Guard full_precision;
  const EntmaxProblem p = check_entmax(arguments);
  check_entmax_backward(grad_out, tau, arguments);
  const Operands operands(arguments, p);
  const at::Tensor grad = Operands::fold_query(grad_out, p);
  const at::Tensor folded_tau = tau.reshape({p.batch * p.kv_heads, p.group(), p.q_tokens});
  const at::Tensor grad_query = at::zeros_like(operands.query);
  const at::Tensor grad_key = at::zeros_like(operands.key);
  const at::Tensor grad_value = at::zeros_like(operands.value);
  for (const Chunk& chunk : split(p, operands.query.element_size())) {
    if (chunk.keys == 0) continue;
    at::Tensor u = all_scores(p, operands, chunk);
    const at::Tensor hidden = hidden_pairs(visible_keys(p, chunk, u.device()), chunk.keys);
    u.sub_(query_part(folded_tau, chunk).unsqueeze(-1)).clamp_min_(0).masked_fill_(hidden, 0);
    const at::Tensor w = slope_weights(u, p.exponent());
    const at::Tensor grad_rows = rows_of_group(query_part(grad, chunk));
    const at::Tensor value = key_part(operands.value, chunk);
    key_part(grad_value, chunk).add_(at::bmm(rows_of_group(w.mul(u)).transpose(1, 2), grad_rows));
    at::Tensor grad_scores = at::bmm(grad_rows, value.transpose(1, 2)).view(u.sizes());
    const at::Tensor w_sum = w.sum(-1, true);
    const at::Tensor delta = w.mul(grad_scores).sum(-1, true).div_(at::where(w_sum.eq(0), 1.0, w_sum));
    grad_scores = rows_of_group(grad_scores.sub_(delta).mul_(w).mul_(p.scale));
    const at::Tensor part = query_part(grad_query, chunk);
    part.copy_(at::bmm(grad_scores, key_part(operands.key, chunk)).view(part.sizes()));
    key_part(grad_key, chunk)
        .add_(at::bmm(grad_scores.transpose(1, 2), rows_of_group(query_part(operands.query, chunk))));
  }
  return {restored(grad_query, arguments.query), restored(grad_key, arguments.key),
          restored(grad_value, arguments.value)};
}

}  // namespace asplash::ops
