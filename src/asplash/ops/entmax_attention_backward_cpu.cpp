// Backward pass on the CPU. One unit of work is one document of one key/value head (or every S-th of its row
// tiles): it owns its dK and dV, so their sums are taken in one fixed order. For each row tile the scores are
// recomputed; from the saved tau follow u and the tiles that matter; only those see another product.

#include <ATen/Parallel.h>

#include <limits>

#include "asplash/ops/entmax_cpu_layout.h"

namespace asplash::ops {
namespace cpu {
namespace {

/// Enough units for the cores of a usual machine without looking at how many there are.
constexpr int64_t kWantedUnits = 16;

/// A tensor [.., heads, tokens, width] that workers write.
template <class T>
struct RowSink {
  explicit RowSink(const at::Tensor& t) : tensor(t), data(t.data_ptr<T>()) {}
  T* at(int64_t batch, int64_t head, int64_t token) const {
    return data + batch * tensor.stride(0) + head * tensor.stride(1) + token * tensor.stride(2);
  }
  at::Tensor tensor;
  T* data;
};

template <class T>
struct BackwardPlan {
  BackwardPlan(const at::Tensor& grad_out, const at::Tensor& tau_in, const EntmaxArguments& arguments,
               const EntmaxProblem& p)
      : problem(p),
        width(row_width(p)),
        query(rows_of<T>(arguments.query, width)),
        key(rows_of<T>(arguments.key, width)),
        value(rows_of<T>(arguments.value, width)),
        grad(rows_of<T>(grad_out, width)),
        tau(tau_in.contiguous()),
        key_columns(transposed_tiles(key, p)),
        value_columns(transposed_tiles(value, p)),
        query_tile_facts(query_facts(query, p.heads, p)),
        grad_tile_facts(query_facts(grad, p.heads, p)),
        key_tile_facts(key_facts(key, p)),
        grad_query(empty_heads_like(arguments.query, p.head_dim, query.tensor.scalar_type())) {
    if (arguments.alibi_slopes) slopes = arguments.alibi_slopes->contiguous();
    const int64_t row_tiles = p.group() * p.query_tiles;
    splits = std::clamp<int64_t>(kWantedUnits / std::max<int64_t>(1, p.batch * p.kv_heads), 1,
                                 std::max<int64_t>(1, row_tiles));
    for (int64_t s = 0; s < splits; ++s) {
      grad_key.emplace_back(empty_heads_like(arguments.key, width, query.tensor.scalar_type()).zero_());
      grad_value.emplace_back(empty_heads_like(arguments.value, width, query.tensor.scalar_type()).zero_());
    }
  }

  ScoreFactors<T> factors(int64_t head) const {
    const double slope = slopes.defined() ? slopes.const_data_ptr<float>()[head] : 0.0;
    return {static_cast<T>((problem.alpha - 1) * problem.scale), static_cast<T>((problem.alpha - 1) * slope)};
  }

  const EntmaxProblem& problem;
  int64_t width;
  Rows<T> query, key, value, grad;
  at::Tensor tau;
  at::Tensor key_columns, value_columns;
  TileFacts query_tile_facts, grad_tile_facts, key_tile_facts;
  at::Tensor slopes;
  RowSink<T> grad_query;
  int64_t splits = 1;  ///< partial sums of dK and dV, added in order at the end
  std::vector<RowSink<T>> grad_key, grad_value;
};

template <class T>
class BackwardWorker {
 public:
  explicit BackwardWorker(const BackwardPlan<T>& plan)
      : plan_(plan),
        kernels_(kernels<T>()),
        support_(longest(plan.problem) * kTile * kTile),
        grad_weights_(longest(plan.problem) * kTile * kTile),
        grad_query_(kTile * plan.width) {}

  void run(int64_t unit) {
    const EntmaxProblem& p = plan_.problem;
    const int64_t documents = static_cast<int64_t>(p.documents.size());
    split_ = unit % plan_.splits;
    document_ = &p.documents[static_cast<size_t>(unit / plan_.splits % documents)];
    kv_head_ = unit / plan_.splits / documents % p.kv_heads;
    batch_ = unit / plan_.splits / documents / p.kv_heads;
    const int64_t query_tiles = (document_->queries + kTile - 1) / kTile;
    for (int64_t i = split_; i < p.group() * query_tiles; i += plan_.splits) {
      head_ = kv_head_ * p.group() + i / query_tiles;
      run_row_tile(i % query_tiles);
    }
  }

 private:
  static int64_t longest(const EntmaxProblem& p) {
    int64_t keys = 0;
    for (const EntmaxDocument& document : p.documents) keys = std::max(keys, document.keys);
    return (keys + kTile - 1) / kTile;
  }

  void run_row_tile(int64_t query_tile) {
    const EntmaxProblem& p = plan_.problem;
    const int64_t begin = query_tile * kTile;
    rows_ = row_tile({0, begin, std::min(kTile, document_->queries - begin)}, *document_, p.causal);
    token_ = document_->query_begin + begin;
    query_tile_index_ = (batch_ * p.heads + head_) * p.query_tiles + document_->query_tile_begin + query_tile;
    find_support();
    solve_delta();
    std::fill_n(grad_query_.data(), rows_.rows * plan_.width, T{0});
    for (size_t slot = 0; slot < active_.size(); ++slot) accumulate(slot);
    for (int64_t r = 0; r < rows_.rows; ++r) {
      std::copy_n(grad_query_.data() + r * plan_.width, p.head_dim,
                  plan_.grad_query.at(batch_, head_, token_ + r));
    }
  }

  int64_t key_tile_index(int64_t key_tile) const {
    const EntmaxProblem& p = plan_.problem;
    return (batch_ * p.kv_heads + kv_head_) * p.key_tiles + document_->key_tile_begin + key_tile;
  }

  T* support(size_t slot) const { return support_.data() + static_cast<int64_t>(slot) * kTile * kTile; }
  T* grad_weights(size_t slot) const {
    return grad_weights_.data() + static_cast<int64_t>(slot) * kTile * kTile;
  }

  /// u and dP = dO V^T of every tile that holds a positive u, and each row's sums of w and w dP.
  void find_support() {
    const EntmaxProblem& p = plan_.problem;
    const ScoreFactors<T> factors = plan_.factors(head_);
    const T* query = plan_.query.at(batch_, head_, token_);
    const T* grad = plan_.grad.at(batch_, head_, token_);
    const T* tau = plan_.tau.template const_data_ptr<T>() + (batch_ * p.heads + head_) * p.q_tokens + token_;
    std::fill_n(w_sum_, kTile, 0.0);
    std::fill_n(w_dp_sum_, kTile, 0.0);
    active_.clear();
    for (int64_t key_tile = 0; key_tile < rows_.key_tiles; ++key_tile) {
      const TileGeometry g = geometry(rows_, key_tile, *document_, p.causal);
      const int64_t index = key_tile_index(key_tile);
      if (factors.slope > 0 && is_out_of_reach(g, factors, tau, index)) continue;
      T* const u = support(active_.size());
      T* const dp = grad_weights(active_.size());
      kernels_.multiply(g.rows, kTile, p.head_dim, query, plan_.query.token_stride, 1,
                        plan_.key_columns.template const_data_ptr<T>() + index * p.head_dim * kTile, kTile, u,
                        kTile, false);
      if (!kernels_.support_tile(g, factors, tau, u)) continue;
      kernels_.multiply(g.rows, kTile, p.head_dim, grad, plan_.grad.token_stride, 1,
                        plan_.value_columns.template const_data_ptr<T>() + index * p.head_dim * kTile, kTile,
                        dp, kTile, false);
      kernels_.backward_sums(p.exponent(), g.rows, u, dp, w_sum_, w_dp_sum_);
      active_.push_back(key_tile);
    }
  }

  bool is_out_of_reach(const TileGeometry& g, ScoreFactors<T> factors, const T* tau, int64_t key_tile) const {
    double least = std::numeric_limits<double>::infinity();
    for (int64_t r = 0; r < g.rows; ++r) {
      if (std::isnan(tau[r])) return false;
      least = std::min(least, static_cast<double>(tau[r]));
    }
    const double bound =
        score_bound(g, factors, plan_.query_tile_facts.norm[static_cast<size_t>(query_tile_index_)],
                    plan_.key_tile_facts.norm[static_cast<size_t>(key_tile)], plan_.problem.head_dim);
    return bound < least - 4 * std::numeric_limits<T>::epsilon() * std::abs(least);
  }

  void solve_delta() {
    for (int64_t r = 0; r < rows_.rows; ++r) {
      delta_[r] = w_sum_[r] == 0 ? T{0} : static_cast<T>(w_dp_sum_[r] / w_sum_[r]);
    }
  }

  /// c += a^T b or a b, whichever the strides say; b's non-finite rows reach only where a has weight.
  void multiply(bool finite, int64_t m, int64_t k, const T* a, int64_t a_row_stride, int64_t a_column_stride,
                const T* b, int64_t b_stride, T* c, int64_t c_stride) const {
    if (finite) {
      kernels_.multiply(m, plan_.width, k, a, a_row_stride, a_column_stride, b, b_stride, c, c_stride, true);
    } else {
      multiply_skipping_zeros(m, plan_.width, k, a, a_row_stride, a_column_stride, b, b_stride, c, c_stride);
    }
  }

  void accumulate(size_t slot) {
    const EntmaxProblem& p = plan_.problem;
    const int64_t first = active_[slot] * kTile;
    const int64_t keys = std::min(kTile, document_->keys - first);
    const int64_t key_token = document_->key_begin + first;
    T* const weights = support(slot);
    T* const grad_scores = grad_weights(slot);
    kernels_.gradient_tile(p.exponent(), rows_.rows, static_cast<T>(p.scale), delta_, weights, grad_scores);
    const RowSink<T>& grad_value = plan_.grad_value[static_cast<size_t>(split_)];
    multiply(plan_.grad_tile_facts.finite[static_cast<size_t>(query_tile_index_)], keys, rows_.rows, weights,
             1, kTile, plan_.grad.at(batch_, head_, token_), plan_.grad.token_stride,
             grad_value.at(batch_, kv_head_, key_token), grad_value.tensor.stride(2));
    const RowSink<T>& grad_key = plan_.grad_key[static_cast<size_t>(split_)];
    multiply(plan_.query_tile_facts.finite[static_cast<size_t>(query_tile_index_)], keys, rows_.rows,
             grad_scores, 1, kTile, plan_.query.at(batch_, head_, token_), plan_.query.token_stride,
             grad_key.at(batch_, kv_head_, key_token), grad_key.tensor.stride(2));
    multiply(plan_.key_tile_facts.finite[static_cast<size_t>(key_tile_index(active_[slot]))], rows_.rows,
             keys, grad_scores, kTile, 1, plan_.key.at(batch_, kv_head_, key_token), plan_.key.token_stride,
             grad_query_.data(), plan_.width);
  }

  const BackwardPlan<T>& plan_;
  const Kernels<T>& kernels_;
  Scratch<T> support_, grad_weights_, grad_query_;
  std::vector<int64_t> active_;  ///< key tiles with a positive weight, by slot
  double w_sum_[kTile], w_dp_sum_[kTile];
  T delta_[kTile];
  const EntmaxDocument* document_ = nullptr;
  int64_t batch_ = 0, head_ = 0, kv_head_ = 0, split_ = 0, token_ = 0, query_tile_index_ = 0;
  RowTile rows_;
};

template <class T>
at::Tensor sum_in_order(const std::vector<RowSink<T>>& parts, const at::Tensor& like) {
  at::Tensor sum = parts[0].tensor;
  for (size_t s = 1; s < parts.size(); ++s) sum.add_(parts[s].tensor);
  return as_heads_like(like, sum.narrow(3, 0, like.size(3)));
}

template <class T>
EntmaxBackward backward(const at::Tensor& grad_out, const at::Tensor& tau, const EntmaxArguments& arguments,
                        const EntmaxProblem& problem) {
  const BackwardPlan<T> plan(grad_out, tau, arguments, problem);
  const int64_t documents = static_cast<int64_t>(problem.documents.size());
  at::get_num_threads();  // makes libtorch set OpenMP up, should this be the first operator
  run_units(problem.batch * problem.kv_heads * documents * plan.splits, product_operations(problem),
            [&]() -> Worker {
              const auto worker = std::make_shared<BackwardWorker<T>>(plan);
              return [worker](int64_t unit) { worker->run(unit); };
            });
  return {as_heads_like(arguments.query, plan.grad_query.tensor), sum_in_order(plan.grad_key, arguments.key),
          sum_in_order(plan.grad_value, arguments.value)};
}

}  // namespace
}  // namespace cpu

EntmaxBackward entmax_backward_cpu(const at::Tensor& grad_out, const at::Tensor& tau,
                                   const EntmaxArguments& arguments) {
  const EntmaxProblem problem = check_entmax(arguments);
  check_entmax_backward(grad_out, tau, arguments);
  return entmax_compute_type(arguments.query) == at::kDouble
             ? cpu::backward<double>(grad_out, tau, arguments, problem)
             : cpu::backward<float>(grad_out, tau, arguments, problem);
}

}  // namespace asplash::ops
