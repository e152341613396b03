#include "kernels/attention_reference.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "ops/entmax_thresholds.h"

namespace asplash::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

size_t size_of(int a, int b, int c, int d = 1) {
  return static_cast<size_t>(a) * static_cast<size_t>(b) * static_cast<size_t>(c) * static_cast<size_t>(d);
}

class Reference {
 public:
  Reference(const AttentionProblem& problem, const AttentionInputs& inputs)
      : p_(problem), in_(inputs), alpha_(problem.alpha), exponent_(1 / (alpha_ - 1)) {
    const size_t rows = size_of(p_.batch, p_.heads, p_.q_tokens);
    const auto dim = static_cast<size_t>(p_.head_dim);
    result_.out.assign(rows * dim, 0);
    result_.mean_value = result_.grad_query = result_.out;
    result_.tau.assign(rows, kInfinity);
    result_.weight_sum.assign(rows, 0);
    result_.grad_key.assign(size_of(p_.batch, p_.kv_heads, p_.k_tokens, p_.head_dim), 0);
    result_.grad_value = result_.grad_key;
  }

  AttentionReference compute() {
    for (int batch = 0; batch < p_.batch; ++batch) {
      for (int head = 0; head < p_.heads; ++head) {
        if (p_.cu_q.empty()) {
          add_document(batch, head, 0, p_.q_tokens, 0, p_.k_tokens, 0);
          continue;
        }
        int row_tile = 0;
        for (size_t i = 0; i + 1 < p_.cu_q.size(); ++i) {
          const int length = p_.cu_q[i + 1] - p_.cu_q[i];
          add_document(batch, head, p_.cu_q[i], length, p_.cu_k[i], p_.cu_k[i + 1] - p_.cu_k[i], row_tile);
          row_tile += (length + kernels::kTile - 1) / kernels::kTile;
        }
      }
    }
    result_.grad_query_size = std::sqrt(query_squares_);
    result_.grad_key_size = std::sqrt(key_squares_);
    return result_;
  }

 private:
  double dot(const float* a, const float* b) const {
    double sum = 0;
    for (int d = 0; d < p_.head_dim; ++d) sum += static_cast<double>(a[d]) * static_cast<double>(b[d]);
    return sum;
  }
  bool finite(const float* a) const {
    return std::all_of(a, a + p_.head_dim, [](float x) { return std::isfinite(x); });
  }

  void add_document(int batch, int head, int q_begin, int q_length, int k_begin, int k_length,
                    int first_row_tile) {
    const int kv_head = head / (p_.heads / p_.kv_heads), offset = k_length - q_length;
    const size_t q_row = size_of(batch * p_.heads + head, p_.q_tokens, 1) + static_cast<size_t>(q_begin);
    const size_t k_row =
        size_of(batch * p_.kv_heads + kv_head, p_.k_tokens, 1) + static_cast<size_t>(k_begin);
    std::vector<ReferenceTile> row_of_tiles;
    for (int i = 0; i < q_length; ++i) {
      if (i % kernels::kTile == 0) {
        const int last = std::min(i + kernels::kTile, q_length);
        const int visible = p_.causal ? std::clamp(last + offset, 0, k_length) : k_length;
        row_of_tiles.clear();
        for (int tile = 0; tile * kernels::kTile < visible; ++tile) {
          row_of_tiles.push_back({batch, head, first_row_tile + i / kernels::kTile, tile, -kInfinity});
        }
      }
      const int visible = p_.causal ? std::clamp(i + offset + 1, 0, k_length) : k_length;
      const double slope = p_.slopes.empty() ? 0 : p_.slopes[static_cast<size_t>(head)];
      add_row(q_row + static_cast<size_t>(i), k_row, i + offset, visible, slope, row_of_tiles);
      if (i % kernels::kTile == kernels::kTile - 1 || i + 1 == q_length) {
        result_.tiles.insert(result_.tiles.end(), row_of_tiles.begin(), row_of_tiles.end());
      }
    }
  }

  void add_row(size_t row, size_t k_row, int position, int visible, double slope,
               std::vector<ReferenceTile>& tiles) {
    if (visible == 0) return;
    const auto dim = static_cast<size_t>(p_.head_dim);
    const float* const query = in_.query.data() + row * dim;
    const float* const key = in_.key.data() + k_row * dim;
    const float* const value = in_.value.data() + k_row * dim;
    ++result_.rows;
    std::vector<double> z(static_cast<size_t>(visible));
    bool broken = false;
    for (size_t j = 0; j < z.size(); ++j) {
      z[j] = (alpha_ - 1) * (static_cast<double>(p_.scale) * dot(query, key + j * dim) -
                             slope * std::abs(position - static_cast<double>(j)));
      broken = broken || !std::isfinite(z[j]);
    }
    const double tau = broken ? kNan : sorted_threshold(z, alpha_);
    double* const out = result_.out.data() + row * dim;
    double* const mean = result_.mean_value.data() + row * dim;
    double weight_sum = 0, largest = 0;
    for (const double x : z) largest = std::max(largest, std::abs(x));
    for (size_t j = 0; j < z.size() && !broken; ++j) {
      const double u = z[j] - tau;
      result_.at_edge += std::abs(u) < 4e-6 * (1 + largest);
      if (!(u > 0)) continue;
      ++result_.support;
      broken = broken || !finite(value + j * dim);
      const double w = std::pow(u, exponent_ - 1);
      weight_sum += w;
      for (size_t d = 0; d < dim; ++d) {
        out[d] += w * u * static_cast<double>(value[j * dim + d]);
        mean[d] += w * static_cast<double>(value[j * dim + d]);
      }
    }
    for (size_t d = 0; d < dim; ++d) mean[d] /= weight_sum;
    result_.tau[row] = tau;
    result_.weight_sum[row] = weight_sum;
    if (broken) {
      result_.tau[row] = result_.weight_sum[row] = kNan;
      for (auto* numbers : {&result_.out, &result_.mean_value, &result_.grad_query}) {
        std::fill_n(numbers->begin() + static_cast<int64_t>(row * dim), dim, kNan);
      }
      return;
    }
    result_.largest_score = std::max(result_.largest_score, largest);
    for (size_t j = 0; j < z.size(); ++j) {
      double& excess = tiles[j / kernels::kTile].excess;
      excess = std::max(excess, z[j] - tau);
    }
    add_gradients(row, k_row, z, tau);
  }

  void add_gradients(size_t row, size_t k_row, const std::vector<double>& z, double tau) {
    const auto dim = static_cast<size_t>(p_.head_dim);
    const float* const grad_out = in_.grad_out.data() + row * dim;
    double delta = 0;
    for (size_t d = 0; d < dim; ++d) {
      delta += static_cast<double>(grad_out[d]) * result_.mean_value[row * dim + d];
    }
    for (size_t j = 0; j < z.size(); ++j) {
      const double u = z[j] - tau;
      if (!(u > 0)) continue;
      const size_t key_at = (k_row + j) * dim;
      const double w = std::pow(u, exponent_ - 1), p = w * u;
      const double grad =
          static_cast<double>(p_.scale) * w * (dot(grad_out, in_.value.data() + key_at) - delta);
      const float* const value = in_.value.data() + key_at;
      const double size = std::pow(static_cast<double>(p_.scale) * w, 2) * dot(grad_out, grad_out) *
                          dot(value, value) / p_.head_dim;
      query_squares_ += size * dot(in_.key.data() + key_at, in_.key.data() + key_at);
      key_squares_ += size * dot(in_.query.data() + row * dim, in_.query.data() + row * dim);
      for (size_t d = 0; d < dim; ++d) {
        result_.grad_query[row * dim + d] += grad * static_cast<double>(in_.key[key_at + d]);
        result_.grad_key[key_at + d] += grad * static_cast<double>(in_.query[row * dim + d]);
        result_.grad_value[key_at + d] += p * static_cast<double>(grad_out[d]);
      }
    }
  }

  const AttentionProblem& p_;
  const AttentionInputs& in_;
  double alpha_, exponent_;
  double query_squares_ = 0, key_squares_ = 0;
  AttentionReference result_;
};

}  // namespace

AttentionReference attention_reference(const AttentionProblem& problem, const AttentionInputs& inputs) {
  return Reference(problem, inputs).compute();
}

AttentionInputs normal_inputs(const AttentionProblem& p, double spread, unsigned seed) {
  std::mt19937_64 random(seed);
  const auto numbers = [&](int heads, int tokens, double deviation) {
    std::normal_distribution<double> distribution(0, deviation);
    std::vector<float> result(size_of(p.batch, heads, tokens, p.head_dim));
    for (float& x : result) x = static_cast<float>(distribution(random));
    return result;
  };
  const double size = std::sqrt(spread);
  return {numbers(p.heads, p.q_tokens, size), numbers(p.kv_heads, p.k_tokens, size),
          numbers(p.kv_heads, p.k_tokens, 1), numbers(p.heads, p.q_tokens, 1)};
}

void round_to(kernels::ElementType type, std::vector<float>& numbers) {
  if (type == kernels::ElementType::bf16) {
    for (float& x : numbers) x = __bfloat162float(__float2bfloat16_rn(x));
  } else if (type == kernels::ElementType::fp16) {
    for (float& x : numbers) x = __half2float(__float2half_rn(x));
  }
}

void round_to(kernels::ElementType type, AttentionInputs& inputs) {
  for (auto* numbers : {&inputs.query, &inputs.key, &inputs.value, &inputs.grad_out})
    round_to(type, *numbers);
}

double relative_error(const std::vector<float>& a, const std::vector<double>& b, double size) {
  double error = 0, squares = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (!std::isfinite(b[i])) continue;
    const double difference = static_cast<double>(a[i]) - b[i];
    error += difference * difference;
    squares += b[i] * b[i];
  }
  const double norm = std::max(std::sqrt(squares), size);
  return norm > 0 ? std::sqrt(error) / norm : std::sqrt(error);
}

int64_t first_nan_mismatch(const std::vector<float>& a, const std::vector<double>& b) {
  for (size_t i = 0; i < b.size(); ++i) {
    if (std::isnan(a[i]) != std::isnan(b[i])) return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace asplash::test
