#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

/// What tests of entmax attention share: inputs, and a fixture.
namespace asplash::test {

/// On one thread: many small tensors, and other programs may be using the cores. That the number of threads
/// changes nothing is a test of its own.
class OneThreadTest : public testing::Test {
 protected:
  OneThreadTest() { at::set_num_threads(1); }
  ~OneThreadTest() override { at::set_num_threads(threads_); }

  const int threads_ = at::get_num_threads();
};

struct Shape {
  int64_t batch, heads, kv_heads, q_tokens, k_tokens, head_dim;
};

struct Inputs {
  at::Tensor query, key, value, grad_out;
};

/// Normal inputs from ATen's generator; `spread` is the standard deviation of the scores at the default
/// scale.
inline Inputs make_inputs(const Shape& s, at::ScalarType type, double spread = 2) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const double size = std::sqrt(spread);
  return {at::randn({s.batch, s.heads, s.q_tokens, s.head_dim}, options).mul_(size).to(type),
          at::randn({s.batch, s.kv_heads, s.k_tokens, s.head_dim}, options).mul_(size).to(type),
          at::randn({s.batch, s.kv_heads, s.k_tokens, s.head_dim}, options).to(type),
          at::randn({s.batch, s.heads, s.q_tokens, s.head_dim}, options).to(type)};
}

inline std::optional<at::Tensor> offsets(const std::vector<int64_t>& values) {
  if (values.empty()) return std::nullopt;
  return at::tensor(values, at::kLong).to(at::kInt);
}

}  // namespace asplash::test
