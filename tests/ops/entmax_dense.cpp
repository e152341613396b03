#include "ops/entmax_dense.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace asplash::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kTile = 64;
constexpr int64_t kChunkPairs = int64_t{1} << 26;  ///< of one chunk: half a GB in fp64
/// Scores are computed in fp32: so much of the largest score of a row may be lost.
constexpr double kRounding = 8.0 / (1 << 23);

at::Tensor wide(const at::Tensor& x) { return x.detach().to(at::kDouble); }

double size_of(double squares) { return squares > 0 ? std::sqrt(squares) : 1.0; }

double squares(const at::Tensor& x) { return x.square().sum().item<double>(); }

double largest(const at::Tensor& x) { return x.numel() > 0 ? x.max().item<double>() : -kInfinity; }

/// tau of each row of z [rows, keys]; hidden scores are -infinity. Sorted for alpha 1.5 and 2, else by
/// bisection.
at::Tensor thresholds(const at::Tensor& z, double alpha) {
  const at::Tensor top = z.amax(1, true);
  const at::Tensor shifted = z - top;
  if (alpha != 1.5 && alpha != 2.0) {
    at::Tensor low = at::full_like(top, -1), high = at::zeros_like(top);
    for (int i = 0; i < 60; ++i) {
      const at::Tensor middle = (low + high) / 2;
      const at::Tensor heavy = (shifted - middle).clamp_min(0).pow(1 / (alpha - 1)).sum(1, true).gt(1);
      low = at::where(heavy, middle, low);
      high = at::where(heavy, high, middle);
    }
    return top + (low + high) / 2;
  }
  // -1e3 instead of -infinity keeps the running sums finite; it is below every threshold.
  const at::Tensor sorted = std::get<0>(shifted.clamp_min(-1e3).sort(1, true));
  const at::Tensor count = at::arange(1, z.size(1) + 1, z.options());
  const at::Tensor mean = sorted.cumsum(1) / count;
  at::Tensor candidate;
  if (alpha == 2.0) {
    candidate = mean - 1 / count;
  } else {
    const at::Tensor variance = sorted.square().cumsum(1) / count - mean.square();
    candidate = mean - ((1 / count - variance).clamp_min(0)).sqrt();
  }
  const at::Tensor support = candidate.lt(sorted).sum(1, true).clamp_min(1);
  return top + candidate.gather(1, support - 1);
}

/// Queries [query, query + rows) of one head, which see keys of one document.
struct Chunk {
  int64_t batch, head, kv_head;
  int64_t query, rows, key, keys;
  int64_t position;  ///< of the first query among the document's keys
  int64_t row_tile;  ///< of the first query, counted over all documents
  double slope;
};

class Comparison {
 public:
  Comparison(const Inputs& in, const EntmaxCase& call, const EntmaxResults& got)
      : in_(in), call_(call), got_(got), exponent_(1 / (call.alpha - 1)) {
    has_gradients_ = got.grad_query.defined();
    if (!has_gradients_) return;
    grad_key_ = at::zeros_like(in.key, in.key.options().dtype(at::kDouble));
    grad_value_ = at::zeros_like(grad_key_);
    key_terms_ = at::zeros_like(grad_key_);
    value_terms_ = at::zeros_like(grad_key_);
  }

  EntmaxErrors run() {
    const int64_t heads = in_.query.size(1), group = heads / in_.key.size(1);
    for (int64_t batch = 0; batch < in_.query.size(0); ++batch) {
      for (int64_t head = 0; head < heads; ++head) {
        const double slope = call_.slopes.empty() ? 0 : call_.slopes[static_cast<size_t>(head)];
        Chunk chunk{batch, head, head / group, 0, 0, 0, 0, 0, 0, slope};
        run_head(chunk);
      }
    }
    finish();
    return errors_;
  }

 private:
  void run_head(Chunk chunk) {
    if (call_.cu_seqlens_q.empty()) return run_document(chunk, in_.query.size(2), 0, in_.key.size(2));
    for (size_t d = 0; d + 1 < call_.cu_seqlens_q.size(); ++d) {
      chunk.query = call_.cu_seqlens_q[d];
      const int64_t queries = call_.cu_seqlens_q[d + 1] - chunk.query;
      run_document(chunk, queries, call_.cu_seqlens_k[d], call_.cu_seqlens_k[d + 1] - call_.cu_seqlens_k[d]);
      chunk.row_tile += (queries + kTile - 1) / kTile;
    }
  }

  void run_document(Chunk chunk, int64_t queries, int64_t first_key, int64_t keys) {
    const int64_t rows = std::max(kTile, kChunkPairs / std::max<int64_t>(1, keys) / kTile * kTile);
    const int64_t first_query = chunk.query, first_tile = chunk.row_tile;
    for (int64_t begin = 0; begin < queries; begin += rows) {
      chunk.query = first_query + begin;
      chunk.rows = std::min(rows, queries - begin);
      chunk.key = first_key;
      chunk.position = begin + keys - queries;
      chunk.keys = call_.causal ? std::clamp<int64_t>(chunk.position + chunk.rows, 0, keys) : keys;
      chunk.row_tile = first_tile + begin / kTile;
      run_chunk(chunk);
    }
  }

  static at::Tensor rows_of(const at::Tensor& x, const Chunk& c) {
    return wide(x[c.batch][c.head].narrow(0, c.query, c.rows));
  }
  static at::Tensor keys_of(const at::Tensor& x, const Chunk& c) {
    return x[c.batch][c.kv_head].narrow(0, c.key, c.keys);
  }

  void run_chunk(const Chunk& c) {
    const at::Tensor out = rows_of(got_.out, c);
    if (c.keys == 0) {
      const bool empty = out.eq(0).all().item<bool>() && rows_of(got_.tau, c).isposinf().all().item<bool>();
      errors_.unseen_rows_are_empty = errors_.unseen_rows_are_empty && empty;
      return;
    }
    const at::Tensor query = rows_of(in_.query, c), key = wide(keys_of(in_.key, c)),
                     value = wide(keys_of(in_.value, c));
    const at::TensorOptions options = query.options();
    const at::Tensor distance = at::arange(c.position, c.position + c.rows, options).unsqueeze(1) -
                                at::arange(c.keys, options).unsqueeze(0);
    const at::Tensor hidden = call_.causal ? distance.lt(0) : at::zeros_like(distance, at::kBool);
    at::Tensor z = (query.matmul(key.t()) * call_.scale - c.slope * distance.abs()) * (call_.alpha - 1);
    const at::Tensor seeing = hidden.logical_not().any(1);
    z = z.masked_fill(hidden, -kInfinity);
    at::Tensor tau = thresholds(z.masked_fill(seeing.logical_not().unsqueeze(1), 0), call_.alpha);
    tau = tau.masked_fill(seeing.logical_not().unsqueeze(1), kInfinity);
    const at::Tensor u = (z - tau).clamp_min(0);
    const at::Tensor p = u.pow(exponent_);
    compare_outputs(c, seeing, out, p.matmul(value));
    const at::Tensor got_tau = rows_of(got_.tau, c).unsqueeze(1);
    const at::Tensor slack = z.masked_fill(hidden, 0).abs().amax(1, true) * kRounding;
    compare_thresholds(z, tau, got_tau, slack, seeing);
    count(c, p.gt(0), hidden);
    if (got_.tile_mask.defined()) compare_mask(c, z - at::maximum(tau, got_tau) - slack);
    if (has_gradients_) compare_gradients(c, query, key, value, u, p);
  }

  void compare_outputs(const Chunk& c, const at::Tensor& seeing, const at::Tensor& out,
                       const at::Tensor& expected) {
    out_error_ += squares(out - expected);
    out_size_ += squares(expected);
    const at::Tensor unseen = seeing.logical_not();
    const at::Tensor full = rows_of(got_.tau, c).isposinf().logical_not().logical_or(out.ne(0).any(1));
    errors_.unseen_rows_are_empty =
        errors_.unseen_rows_are_empty && !unseen.logical_and(full).any().item<bool>();
  }

  /// p of the threshold that was got sums to 1; what its rounding moves is its derivative times the slack.
  void compare_thresholds(const at::Tensor& z, const at::Tensor& tau, const at::Tensor& got,
                          const at::Tensor& slack, const at::Tensor& seeing) {
    const auto worst = [&](const at::Tensor& rows) {
      return largest(rows.squeeze(1).masked_select(seeing).nan_to_num(kInfinity, kInfinity, -kInfinity));
    };
    errors_.tau = std::max(errors_.tau, worst((got - tau).abs() - slack));
    const at::Tensor u = (z - got).clamp_min(0);
    const at::Tensor slope = slopes_of(u).sum(1, true) * exponent_;
    errors_.mass = std::max(errors_.mass, worst((u.pow(exponent_).sum(1, true) - 1).abs() - slope * slack));
  }

  at::Tensor slopes_of(const at::Tensor& u) const {
    return call_.alpha == 2.0 ? u.gt(0).to(at::kDouble) : u.pow(exponent_ - 1);
  }

  /// [row tiles, key tiles] of a [rows, keys] tensor by the largest entry.
  static at::Tensor by_tile(const at::Tensor& x, double padding) {
    const int64_t rows = (x.size(0) + kTile - 1) / kTile, keys = (x.size(1) + kTile - 1) / kTile;
    return at::constant_pad_nd(x, {0, keys * kTile - x.size(1), 0, rows * kTile - x.size(0)}, padding)
        .view({rows, kTile, keys, kTile})
        .amax({1, 3});
  }

  void count(const Chunk& /*c*/, const at::Tensor& positive, const at::Tensor& hidden) {
    const at::Tensor visible = hidden.logical_not();
    const at::Tensor tiles = by_tile(visible.to(at::kDouble), 0);
    errors_.tiles += tiles.sum().item<double>();
    errors_.zero_tiles += (tiles - by_tile(positive.to(at::kDouble), 0)).sum().item<double>();
    errors_.support += positive.sum().item<double>();
    errors_.rows += visible.any(1).sum().item<double>();
  }

  void compare_mask(const Chunk& c, const at::Tensor& excess) {
    const at::Tensor tiles = by_tile(excess, -kInfinity);
    const at::Tensor words =
        got_.tile_mask[c.batch][c.head].narrow(0, c.row_tile, tiles.size(0)).to(at::kLong);
    const at::Tensor bits = at::arange(32, words.options());
    const at::Tensor set = words.unsqueeze(2)
                               .bitwise_right_shift(bits)
                               .bitwise_and(1)
                               .flatten(1)
                               .narrow(1, 0, tiles.size(1))
                               .to(at::kBool);
    errors_.hidden_excess =
        std::max(errors_.hidden_excess, largest(tiles.masked_fill(set, -kInfinity).nan_to_num(-kInfinity)));
  }

  void compare_gradients(const Chunk& c, const at::Tensor& query, const at::Tensor& key,
                         const at::Tensor& value, const at::Tensor& u, const at::Tensor& p) {
    const at::Tensor grad = rows_of(in_.grad_out, c);
    const at::Tensor weights = slopes_of(u);
    const at::Tensor dp = grad.matmul(value.t());
    const at::Tensor sum = weights.sum(1, true);
    const at::Tensor delta = (weights * dp).sum(1, true) / at::where(sum.eq(0), 1.0, sum);
    const at::Tensor ds = weights * (dp - delta) * call_.scale;
    const at::Tensor terms = weights * (dp.abs() + delta.abs()) * std::abs(call_.scale);
    const at::Tensor expected = ds.matmul(key);
    query_error_ += squares(rows_of(got_.grad_query, c) - expected);
    query_size_ += squares(expected);
    query_terms_size_ += squares(terms.matmul(key.abs()));
    const at::Tensor uncancelled = (weights * call_.scale).square() * (dp.square() + delta.square());
    query_uncancelled_ += uncancelled.matmul(key.square()).sum().item<double>();
    key_uncancelled_ += uncancelled.t().matmul(query.square()).sum().item<double>();
    keys_of(grad_key_, c).add_(ds.t().matmul(query));
    keys_of(grad_value_, c).add_(p.t().matmul(grad));
    keys_of(key_terms_, c).add_(terms.t().matmul(query.abs()));
    keys_of(value_terms_, c).add_(p.t().matmul(grad.abs()));
  }

  void finish() {
    errors_.out = std::sqrt(out_error_) / size_of(out_size_);
    if (!has_gradients_) return;
    const double key_error = std::sqrt(squares(wide(got_.grad_key) - grad_key_));
    const double value_error = std::sqrt(squares(wide(got_.grad_value) - grad_value_));
    errors_.grad_query = std::sqrt(query_error_) / size_of(std::max(query_size_, query_uncancelled_));
    errors_.grad_key = key_error / size_of(std::max(squares(grad_key_), key_uncancelled_));
    errors_.grad_value = value_error / size_of(squares(grad_value_));
    errors_.grad_query_of_terms = std::sqrt(query_error_) / size_of(query_terms_size_);
    errors_.grad_key_of_terms = key_error / size_of(squares(key_terms_));
    errors_.grad_value_of_terms = value_error / size_of(squares(value_terms_));
  }

  const Inputs& in_;
  const EntmaxCase& call_;
  const EntmaxResults& got_;
  double exponent_;
  bool has_gradients_ = false;
  at::Tensor grad_key_, grad_value_, key_terms_, value_terms_;
  double out_error_ = 0, out_size_ = 0, query_error_ = 0, query_size_ = 0, query_terms_size_ = 0;
  double query_uncancelled_ = 0, key_uncancelled_ = 0;
  EntmaxErrors errors_;
};

}  // namespace

EntmaxErrors compare_with_dense(const Inputs& in, const EntmaxCase& call, const EntmaxResults& got) {
  return Comparison(in, call, got).run();
}

void expect_within(const EntmaxErrors& errors, const EntmaxTolerance& tolerance, bool of_terms) {
  EXPECT_LE(errors.out, tolerance.out);
  EXPECT_LE(of_terms ? errors.grad_query_of_terms : errors.grad_query, tolerance.grad_query);
  EXPECT_LE(of_terms ? errors.grad_key_of_terms : errors.grad_key, tolerance.grad_key);
  EXPECT_LE(of_terms ? errors.grad_value_of_terms : errors.grad_value, tolerance.grad_value);
  EXPECT_LE(errors.tau, tolerance.tau);
  EXPECT_LE(errors.mass, tolerance.mass);
  EXPECT_LE(errors.hidden_excess, 0) << "a tile with a positive weight was dropped";
  EXPECT_TRUE(errors.unseen_rows_are_empty);
}

}  // namespace asplash::test
