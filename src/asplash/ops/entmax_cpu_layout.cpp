#include "asplash/ops/entmax_cpu_layout.h"

#include <limits>

namespace asplash::ops::cpu {
namespace {

int64_t tiles_of(int64_t tokens) { return (tokens + kTile - 1) / kTile; }

void append_tiles(std::vector<TokenTile>& tiles, int64_t document, int64_t tokens) {
  for (int64_t begin = 0; begin < tokens; begin += kTile) {
    tiles.push_back({document, begin, std::min(kTile, tokens - begin)});
  }
}

template <class T>
TileFacts facts(const Rows<T>& rows, int64_t heads, const EntmaxProblem& problem,
                const std::vector<TokenTile>& tiles, bool keys) {
  const int64_t count = static_cast<int64_t>(tiles.size());
  const int64_t total = problem.batch * heads * count;
  TileFacts result{std::vector<uint8_t>(static_cast<size_t>(total)),
                   std::vector<double>(static_cast<size_t>(total))};
  run_units(total, static_cast<double>(total * kTile * problem.head_dim * 4), [&]() -> Worker {
    return [&](int64_t i) {
      const TokenTile& tile = tiles[static_cast<size_t>(i % count)];
      const EntmaxDocument& document = problem.documents[static_cast<size_t>(tile.document)];
      const int64_t first = (keys ? document.key_begin : document.query_begin) + tile.begin;
      double largest = 0;
      for (int64_t t = 0; t < tile.count; ++t) {
        const double squares = kernels<T>().square_sum(
            problem.head_dim, rows.at(i / count / heads, i / count % heads, first + t));
        if (squares > largest || std::isnan(squares)) largest = squares;
      }
      result.finite[static_cast<size_t>(i)] = std::isfinite(largest);
      result.norm[static_cast<size_t>(i)] = std::sqrt(largest);
    };
  });
  return result;
}

}  // namespace

int64_t row_width(const EntmaxProblem& problem) { return (problem.head_dim + 15) / 16 * 16; }

template <class T>
Rows<T> rows_of(const at::Tensor& tensor, int64_t width) {
  constexpr at::ScalarType type = c10::CppTypeToScalarType<T>::value;
  at::Tensor rows = tensor;
  const int64_t head_dim = tensor.size(3);
  if (tensor.scalar_type() != type || head_dim != width || tensor.stride(3) != 1) {
    rows = at::empty({tensor.size(0), tensor.size(1), tensor.size(2), width}, tensor.options().dtype(type));
    rows.narrow(3, 0, head_dim).copy_(tensor);
    rows.narrow(3, head_dim, width - head_dim).zero_();
  }
  return {rows, rows.const_data_ptr<T>(), rows.stride(0), rows.stride(1), rows.stride(2)};
}

std::vector<TokenTile> query_tiles(const EntmaxProblem& problem) {
  std::vector<TokenTile> tiles;
  for (size_t d = 0; d < problem.documents.size(); ++d) {
    append_tiles(tiles, static_cast<int64_t>(d), problem.documents[d].queries);
  }
  return tiles;
}

std::vector<TokenTile> key_tiles(const EntmaxProblem& problem) {
  std::vector<TokenTile> tiles;
  for (size_t d = 0; d < problem.documents.size(); ++d) {
    append_tiles(tiles, static_cast<int64_t>(d), problem.documents[d].keys);
  }
  return tiles;
}

template <class T>
TileFacts query_facts(const Rows<T>& rows, int64_t heads, const EntmaxProblem& problem) {
  return facts(rows, heads, problem, query_tiles(problem), false);
}

template <class T>
TileFacts key_facts(const Rows<T>& rows, const EntmaxProblem& problem) {
  return facts(rows, problem.kv_heads, problem, key_tiles(problem), true);
}

template <class T>
at::Tensor transposed_tiles(const Rows<T>& rows, const EntmaxProblem& problem) {
  const std::vector<TokenTile> tiles = key_tiles(problem);
  const int64_t count = static_cast<int64_t>(tiles.size());
  const int64_t total = problem.batch * problem.kv_heads * count;
  at::Tensor result = at::empty({total, problem.head_dim, kTile}, rows.tensor.options());
  T* const out = result.data_ptr<T>();
  run_units(total, static_cast<double>(total * kTile * problem.head_dim * 4), [&]() -> Worker {
    return [&](int64_t i) {
      const TokenTile& tile = tiles[static_cast<size_t>(i % count)];
      const EntmaxDocument& document = problem.documents[static_cast<size_t>(tile.document)];
      const T* in = rows.at(i / count / problem.kv_heads, i / count % problem.kv_heads,
                            document.key_begin + tile.begin);
      T* const to = out + i * problem.head_dim * kTile;
      for (int64_t d = 0; d < problem.head_dim; ++d) {
        for (int64_t t = 0; t < tile.count; ++t) to[d * kTile + t] = in[t * rows.token_stride + d];
        std::fill(to + d * kTile + tile.count, to + (d + 1) * kTile, T{0});
      }
    };
  });
  return result;
}

RowTile row_tile(const TokenTile& tile, const EntmaxDocument& document, bool causal) {
  int64_t seen = document.keys;
  if (causal) seen = std::clamp<int64_t>(tile.begin + tile.count + document.offset(), 0, document.keys);
  return {tile.begin, tile.count, tiles_of(seen)};
}

TileGeometry geometry(const RowTile& rows, int64_t key_tile, const EntmaxDocument& document, bool causal) {
  const int64_t first_key = key_tile * kTile;
  return {rows.rows, std::min(kTile, document.keys - first_key), rows.begin + document.offset() - first_key,
          causal};
}

std::vector<int64_t> visiting_order(const RowTile& rows, const EntmaxDocument& document) {
  std::vector<int64_t> order;
  if (rows.key_tiles == 0) return order;
  const int64_t own =
      std::clamp<int64_t>(rows.begin + rows.rows - 1 + document.offset(), 0, document.keys - 1);
  const int64_t start = std::min(own / kTile, rows.key_tiles - 1);
  for (int64_t tile = start; tile >= 0; --tile) order.push_back(tile);
  for (int64_t tile = start + 1; tile < rows.key_tiles; ++tile) order.push_back(tile);
  return order;
}

template <class T>
double score_bound(const TileGeometry& g, ScoreFactors<T> factors, double query_norm, double key_norm,
                   int64_t head_dim) {
  constexpr double epsilon = std::numeric_limits<T>::epsilon();
  const double product = std::abs(static_cast<double>(factors.product)) * query_norm * key_norm;
  const int64_t distance =
      std::max<int64_t>({0, g.first_distance - (g.columns - 1), -(g.first_distance + g.rows - 1)});
  const double bias = static_cast<double>(factors.slope) * static_cast<double>(distance);
  const double rounding = epsilon * (static_cast<double>(head_dim + 8) * product + 4 * bias);
  return product - bias + rounding;
}

template <class T>
void multiply_skipping_zeros(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row_stride,
                             int64_t a_column_stride, const T* b, int64_t b_stride, T* c, int64_t c_stride) {
  for (int64_t p = 0; p < k; ++p) {
    for (int64_t i = 0; i < m; ++i) {
      const T weight = a[i * a_row_stride + p * a_column_stride];
      if (weight == 0) continue;
      for (int64_t j = 0; j < n; ++j) c[i * c_stride + j] += weight * b[p * b_stride + j];
    }
  }
}

double product_operations(const EntmaxProblem& problem) {
  double pairs = 0;
  for (const EntmaxDocument& document : problem.documents) {
    pairs += static_cast<double>(document.queries) * static_cast<double>(document.keys);
  }
  return pairs * static_cast<double>(problem.batch * problem.heads * problem.head_dim);
}

#define ASPLASH_INSTANTIATE(T)                                                                              \
  template Rows<T> rows_of<T>(const at::Tensor&, int64_t);                                                  \
  template TileFacts query_facts<T>(const Rows<T>&, int64_t, const EntmaxProblem&);                         \
  template TileFacts key_facts<T>(const Rows<T>&, const EntmaxProblem&);                                    \
  template at::Tensor transposed_tiles<T>(const Rows<T>&, const EntmaxProblem&);                            \
  template double score_bound<T>(const TileGeometry&, ScoreFactors<T>, double, double, int64_t);            \
  template void multiply_skipping_zeros<T>(int64_t, int64_t, int64_t, const T*, int64_t, int64_t, const T*, \
                                           int64_t, T*, int64_t);
ASPLASH_INSTANTIATE(float)
ASPLASH_INSTANTIATE(double)
#undef ASPLASH_INSTANTIATE

}  // namespace asplash::ops::cpu
