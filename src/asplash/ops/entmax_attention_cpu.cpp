// Forward pass on the CPU. One unit of work is 64 queries of one head: their scores with every visible key
// are laid out as 64 x 64 tiles in a row buffer, each row's threshold is solved exactly over that buffer, and
// only tiles that hold a positive weight are multiplied with their values.

#include <ATen/Parallel.h>

#include <limits>
#include <mutex>

#include "asplash/ops/entmax_cpu_layout.h"

namespace asplash::ops {
namespace cpu {
namespace {

struct Counts {
  int64_t zero_tiles = 0;
  int64_t tiles = 0;
  double support = 0;
  int64_t rows = 0;
};

/// Operands of a forward pass, shared by all threads.
template <class T>
struct ForwardPlan {
  ForwardPlan(const EntmaxArguments& arguments, const EntmaxProblem& p)
      : problem(p),
        tiles(query_tiles(p)),
        width(row_width(p)),
        query(rows_of<T>(arguments.query, width)),
        key(rows_of<T>(arguments.key, width)),
        value(rows_of<T>(arguments.value, width)),
        key_columns(transposed_tiles(key, p)),
        value_facts(key_facts(value, p)) {
    if (arguments.alibi_slopes) {
      slopes = arguments.alibi_slopes->contiguous();
      query_norms = query_facts(query, p.heads, p);
      key_norms = key_facts(key, p);
    }
    out = empty_heads_like(arguments.query, p.head_dim, query.tensor.scalar_type());
    tau = at::empty({p.batch, p.heads, p.q_tokens}, query.tensor.options());
  }

  ScoreFactors<T> factors(int64_t head) const {
    const double slope = slopes.defined() ? slopes.const_data_ptr<float>()[head] : 0.0;
    return {static_cast<T>((problem.alpha - 1) * problem.scale), static_cast<T>((problem.alpha - 1) * slope)};
  }

  const EntmaxProblem& problem;
  std::vector<TokenTile> tiles;
  int64_t width;
  Rows<T> query, key, value;
  at::Tensor key_columns;
  TileFacts value_facts, query_norms, key_norms;
  at::Tensor slopes;
  at::Tensor out, tau;
};

template <class T>
class ForwardWorker {
 public:
  explicit ForwardWorker(const ForwardPlan<T>& plan)
      : plan_(plan),
        kernels_(kernels<T>()),
        scores_(longest(plan.problem) * kTile * kTile),
        tile_max_(longest(plan.problem) * kTile),
        out_(kTile * plan.width) {}

  /// Units count heads in order, each head's row tiles from the last to the first (the longest under a causal
  /// mask).
  Counts run(int64_t unit) {
    const EntmaxProblem& p = plan_.problem;
    const int64_t tile_index = p.query_tiles - 1 - unit % p.query_tiles;
    const TokenTile& tile = plan_.tiles[static_cast<size_t>(tile_index)];
    document_ = &p.documents[static_cast<size_t>(tile.document)];
    batch_ = unit / p.query_tiles / p.heads;
    head_ = unit / p.query_tiles % p.heads;
    kv_head_ = head_ / p.group();
    rows_ = row_tile(tile, *document_, p.causal);
    counts_ = {};
    counts_.tiles = rows_.key_tiles;
    compute_scores(unit / p.query_tiles * p.query_tiles + tile_index);
    solve_rows();
    accumulate_values();
    store();
    return counts_;
  }

 private:
  static int64_t longest(const EntmaxProblem& p) {
    int64_t keys = 0;
    for (const EntmaxDocument& document : p.documents) keys = std::max(keys, document.keys);
    return (keys + kTile - 1) / kTile;
  }

  /// Index of a key tile of the current document among all of its head's.
  int64_t key_tile_index(int64_t key_tile) const {
    const EntmaxProblem& p = plan_.problem;
    return (batch_ * p.kv_heads + kv_head_) * p.key_tiles + document_->key_tile_begin + key_tile;
  }

  T* scores(size_t slot) const { return scores_.data() + static_cast<int64_t>(slot) * kTile * kTile; }
  T* tile_max(size_t slot) const { return tile_max_.data() + static_cast<int64_t>(slot) * kTile; }

  void compute_scores(int64_t query_tile_index) {
    const EntmaxProblem& p = plan_.problem;
    const ScoreFactors<T> factors = plan_.factors(head_);
    const T* query = plan_.query.at(batch_, head_, document_->query_begin + rows_.begin);
    std::fill_n(taint_, kTile, T{0});
    std::fill_n(maximum_, kTile, -std::numeric_limits<T>::infinity());
    visited_.clear();
    for (const int64_t key_tile : visiting_order(rows_, *document_)) {
      const TileGeometry g = geometry(rows_, key_tile, *document_, p.causal);
      const int64_t index = key_tile_index(key_tile);
      if (factors.slope > 0 && is_out_of_reach(g, factors, query_tile_index, index)) continue;
      T* const tile = scores(visited_.size());
      T* const row_max = tile_max(visited_.size());
      kernels_.multiply(g.rows, kTile, p.head_dim, query, plan_.query.token_stride, 1,
                        plan_.key_columns.template const_data_ptr<T>() + index * p.head_dim * kTile, kTile,
                        tile, kTile, false);
      kernels_.score_tile(g, factors, tile, row_max, taint_);
      for (int64_t r = 0; r < g.rows; ++r) maximum_[r] = std::max(maximum_[r], row_max[r]);
      visited_.push_back(key_tile);
    }
  }

  /// True if the bias alone keeps every score of the tile under every row's maximum - 1, the least threshold.
  bool is_out_of_reach(const TileGeometry& g, ScoreFactors<T> factors, int64_t query_tile,
                       int64_t key_tile) const {
    const double bound =
        score_bound(g, factors, plan_.query_norms.norm[static_cast<size_t>(query_tile)],
                    plan_.key_norms.norm[static_cast<size_t>(key_tile)], plan_.problem.head_dim);
    const double least = *std::min_element(maximum_, maximum_ + g.rows);
    return bound < least - 1 - 4 * std::numeric_limits<T>::epsilon() * (std::abs(least) + 1);
  }

  void solve_rows() {
    for (int64_t r = 0; r < rows_.rows; ++r) {
      RowSolution<T> solution{0, std::numeric_limits<T>::infinity(), 0};
      if (std::isnan(taint_[r])) {
        solution.threshold = std::numeric_limits<T>::quiet_NaN();
      } else {
        solution = kernels_.solve_row(plan_.problem.exponent(), scores(0) + r * kTile, tile_max(0) + r,
                                      static_cast<int64_t>(visited_.size()));
      }
      counts_.support += solution.support;
      counts_.rows += solution.threshold < std::numeric_limits<T>::infinity();
      maximum_[r] = solution.maximum;
      threshold_[r] = solution.threshold;
    }
  }

  /// The comparison is weight_tile's own, so no positive weight is missed; NaN counts as active.
  bool is_active(size_t slot) const {
    const T* row_max = tile_max(slot);
    for (int64_t r = 0; r < rows_.rows; ++r) {
      if (!((row_max[r] - maximum_[r]) - threshold_[r] <= 0)) return true;
    }
    return false;
  }

  void accumulate_values() {
    const EntmaxProblem& p = plan_.problem;
    std::fill_n(out_.data(), rows_.rows * plan_.width, T{0});
    int64_t active = 0;
    for (size_t slot = 0; slot < visited_.size(); ++slot) {
      if (!is_active(slot)) continue;
      ++active;
      T* const tile = scores(slot);
      kernels_.weight_tile(p.exponent(), rows_.rows, maximum_, threshold_, tile);
      const int64_t first = visited_[slot] * kTile;
      const int64_t keys = std::min(kTile, document_->keys - first);
      const T* value = plan_.value.at(batch_, kv_head_, document_->key_begin + first);
      if (plan_.value_facts.finite[static_cast<size_t>(key_tile_index(visited_[slot]))]) {
        kernels_.multiply(rows_.rows, plan_.width, keys, tile, kTile, 1, value, plan_.value.token_stride,
                          out_.data(), plan_.width, true);
      } else {
        multiply_skipping_zeros(rows_.rows, plan_.width, keys, tile, kTile, 1, value,
                                plan_.value.token_stride, out_.data(), plan_.width);
      }
    }
    counts_.zero_tiles = rows_.key_tiles - active;
  }

  void store() const {
    const EntmaxProblem& p = plan_.problem;
    const int64_t token = document_->query_begin + rows_.begin;
    T* const tau = plan_.tau.template data_ptr<T>() + (batch_ * p.heads + head_) * p.q_tokens + token;
    T* const out = plan_.out.template data_ptr<T>() + batch_ * plan_.out.stride(0) +
                   head_ * plan_.out.stride(1) + token * plan_.out.stride(2);
    for (int64_t r = 0; r < rows_.rows; ++r) {
      tau[r] = maximum_[r] + threshold_[r];
      std::copy_n(out_.data() + r * plan_.width, p.head_dim, out + r * plan_.out.stride(2));
    }
  }

  const ForwardPlan<T>& plan_;
  const Kernels<T>& kernels_;
  Scratch<T> scores_, tile_max_, out_;
  std::vector<int64_t> visited_;  ///< key tiles whose scores were computed, by slot
  T taint_[kTile], maximum_[kTile], threshold_[kTile];
  const EntmaxDocument* document_ = nullptr;
  int64_t batch_ = 0, head_ = 0, kv_head_ = 0;
  RowTile rows_;
  Counts counts_;
};

template <class T>
EntmaxForward forward(const EntmaxArguments& arguments, const EntmaxProblem& problem, bool with_statistics) {
  const ForwardPlan<T> plan(arguments, problem);
  std::mutex mutex;
  Counts total;
  at::get_num_threads();  // makes libtorch set OpenMP up, should this be the first operator
  run_units(problem.batch * problem.heads * problem.query_tiles, product_operations(problem),
            [&]() -> Worker {
              const auto worker = std::make_shared<ForwardWorker<T>>(plan);
              return [&, worker](int64_t unit) {
                const Counts counts = worker->run(unit);
                const std::lock_guard<std::mutex> lock(mutex);
                total.zero_tiles += counts.zero_tiles;
                total.tiles += counts.tiles;
                total.support += counts.support;  // whole numbers: exact in any order
                total.rows += counts.rows;
              };
            });
  at::Tensor statistics = at::empty({0}, at::kDouble);
  if (with_statistics) {
    statistics = at::tensor({static_cast<double>(total.zero_tiles), static_cast<double>(total.tiles),
                             total.support, static_cast<double>(total.rows), 0.0, 0.0, 0.0, 0.0},
                            at::kDouble);
  }
  return {as_heads_like(arguments.query, plan.out), plan.tau, statistics, {}};
}

}  // namespace
}  // namespace cpu

EntmaxForward entmax_forward_cpu(const EntmaxArguments& arguments, bool with_statistics) {
  const EntmaxProblem problem = check_entmax(arguments);
  return entmax_compute_type(arguments.query) == at::kDouble
             ? cpu::forward<double>(arguments, problem, with_statistics)
             : cpu::forward<float>(arguments, problem, with_statistics);
}

}  // namespace asplash::ops
