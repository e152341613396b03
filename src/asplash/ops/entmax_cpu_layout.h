#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "asplash/ops/entmax_cpu_dispatch.h"
#include "asplash/ops/entmax_cpu_threads.h"
#include "asplash/ops/entmax_problem.h"

/// How the CPU implementation sees its operands: rows in the compute type, tiles of 64 tokens that never
/// cross a document, work shared out among threads.
namespace asplash::ops::cpu {

/// [batch, heads, tokens, head_dim] as rows of `width` numbers (head_dim rounded up to 16, padded with
/// zeros).
template <class T>
struct Rows {
  at::Tensor tensor;
  const T* data = nullptr;
  int64_t batch_stride = 0;
  int64_t head_stride = 0;
  int64_t token_stride = 0;

  const T* at(int64_t batch, int64_t head, int64_t token) const {
    return data + batch * batch_stride + head * head_stride + token * token_stride;
  }
};

int64_t row_width(const EntmaxProblem& problem);

/// The tensor itself where its layout and dtype allow, else a converted copy.
template <class T>
Rows<T> rows_of(const at::Tensor& tensor, int64_t width);

/// Up to kTile consecutive tokens of one document.
struct TokenTile {
  int64_t document;
  int64_t begin;  ///< relative to the document's first token
  int64_t count;
};
std::vector<TokenTile> query_tiles(const EntmaxProblem& problem);
std::vector<TokenTile> key_tiles(const EntmaxProblem& problem);

/// Per (batch, head, tile): are all numbers finite, and the largest Euclidean norm of a row (NaN if any row's
/// is).
struct TileFacts {
  std::vector<uint8_t> finite;
  std::vector<double> norm;
};
template <class T>
TileFacts query_facts(const Rows<T>& rows, int64_t heads, const EntmaxProblem& problem);
template <class T>
TileFacts key_facts(const Rows<T>& rows, const EntmaxProblem& problem);

/// Tiles of keys or values as [batch * kv_heads * key_tiles, head_dim, kTile], zeros beyond a tile's last
/// token.
template <class T>
at::Tensor transposed_tiles(const Rows<T>& rows, const EntmaxProblem& problem);

/// The tile pairs that rows [begin, begin + count) of a document's queries may see.
struct RowTile {
  int64_t begin = 0;  ///< first query, relative to the document
  int64_t rows = 0;
  int64_t key_tiles = 0;  ///< tiles 0 .. key_tiles - 1 hold at least one visible pair
};
RowTile row_tile(const TokenTile& tile, const EntmaxDocument& document, bool causal);
TileGeometry geometry(const RowTile& rows, int64_t key_tile, const EntmaxDocument& document, bool causal);

/// The key tiles of a row tile, nearest to its own position first: there ALiBi's maxima are found early.
std::vector<int64_t> visiting_order(const RowTile& rows, const EntmaxDocument& document);

/// Upper bound of z in a tile pair, rounding included: |z| <= |product| |q| |k| by Cauchy-Schwarz, less the
/// bias of the pair closest in position. NaN if a norm is NaN.
template <class T>
double score_bound(const TileGeometry& geometry, ScoreFactors<T> factors, double query_norm, double key_norm,
                   int64_t head_dim);

/// c += a b like Kernels::multiply, but where a is 0, b is not looked at: a non-finite row of b reaches only
/// rows of c that give it weight.
template <class T>
void multiply_skipping_zeros(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row_stride,
                             int64_t a_column_stride, const T* b, int64_t b_stride, T* c, int64_t c_stride);

/// Multiplications of query . key over all pairs: what a call's work is measured by.
double product_operations(const EntmaxProblem& problem);

/// Scratch memory, aligned for vector loads, not initialized.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : memory_(c10::GetAllocator(c10::kCPU)->allocate(static_cast<size_t>(count) * sizeof(T))) {}
  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  c10::DataPtr memory_;
};

}  // namespace asplash::ops::cpu
