#include "asplash/ops/pointwise.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

Tensor leaf(at::IntArrayRef sizes, at::ScalarType type = at::kDouble) {
  return at::randn(sizes, at::kDouble).to(type).requires_grad_(true);
}

void expect_same(const Tensor& got, const Tensor& expected, const std::vector<Tensor>& leaves,
                 double tolerance) {
  EXPECT_LT(relative_difference(got, expected), tolerance);
  const Tensor out_grad = at::randn_like(expected);
  const auto grads = torch::autograd::grad({got}, leaves, {out_grad.to(got.scalar_type())});
  const auto expected_grads = torch::autograd::grad({expected}, leaves, {out_grad});
  for (size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_EQ(grads[i].scalar_type(), leaves[i].scalar_type());
    EXPECT_LT(relative_difference(grads[i], expected_grads[i]), tolerance) << "gradient " << i;
  }
}

TEST(Pointwise, RmsNorm) {
  at::manual_seed(1);
  const Tensor x = leaf({3, 5, 8}), weight = leaf({8});
  const Tensor expected = x / (x.pow(2).mean({2}, true) + 1e-3).sqrt() * weight;
  expect_same(ops::rms_norm(x, weight, 1e-3), expected, {x, weight}, 1e-12);
}

TEST(Pointwise, SwiGlu) {
  at::manual_seed(2);
  const Tensor gate = leaf({6, 10}), up = leaf({6, 10});
  expect_same(ops::swiglu(gate, up), gate * at::sigmoid(gate) * up, {gate, up}, 1e-12);
}

TEST(Pointwise, RotaryIsAComplexRotation) {
  at::manual_seed(3);
  for (const auto& [type, tolerance] :
       {std::pair(at::kDouble, 1e-12), std::pair(at::kFloat, 1e-6), std::pair(at::kBFloat16, 1e-2)}) {
    const Tensor x = leaf({2, 7, 3, 8}, type);
    const Tensor angles = at::randn({7, 4}, at::kDouble);
    const auto table = type == at::kDouble ? at::kDouble : at::kFloat;
    const Tensor got = ops::rotary(x, angles.cos().to(table), angles.sin().to(table));
    EXPECT_EQ(got.scalar_type(), type);
    const auto halves = x.to(at::kDouble).chunk(2, 3);
    const Tensor turned =
        at::complex(halves[0], halves[1]) * at::polar(at::ones_like(angles), angles).unsqueeze(1);
    expect_same(got, at::cat({at::real(turned), at::imag(turned)}, 3), {x}, tolerance);
  }
}

}  // namespace
}  // namespace asplash::test
