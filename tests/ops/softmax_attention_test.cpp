#include "asplash/ops/softmax_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "asplash/base/error.h"
#include "asplash/ops/documents.h"
#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

struct Shape {
  int64_t batch = 1, heads = 4, kv_heads = 2, q_tokens = 40, k_tokens = 40, head_dim = 16;
};

struct Inputs {
  Tensor query, key, value, out_grad;
};

Inputs make_inputs(const Shape& s, at::ScalarType type, const at::Device& device = at::kCPU) {
  at::manual_seed(11);
  const auto random = [&](int64_t heads, int64_t tokens) {
    return at::randn({s.batch, heads, tokens, s.head_dim}, at::kDouble).to(device, type);
  };
  Inputs in{random(s.heads, s.q_tokens), random(s.kv_heads, s.k_tokens), random(s.kv_heads, s.k_tokens),
            random(s.heads, s.q_tokens)};
  for (Tensor* x : {&in.query, &in.key, &in.value}) x->requires_grad_(true);
  return in;
}

/// By the definition, in fp64: whole score matrices with bias and mask.
Tensor reference(const Inputs& in, const Tensor* slopes, const ops::Documents* documents) {
  const Tensor query = in.query.to(at::kDouble);
  const int64_t group = query.size(1) / in.key.size(1);
  const Tensor key = in.key.to(at::kDouble).repeat_interleave(group, 1);
  const Tensor value = in.value.to(at::kDouble).repeat_interleave(group, 1);
  const int64_t n = query.size(2), m = key.size(2);
  const auto options = query.options();
  const Tensor distance = at::arange(m - n, m, options).unsqueeze(1) - at::arange(m, options);
  Tensor hidden = distance.lt(0);
  if (documents) {
    Tensor owner = at::zeros({m}, options);
    for (const int32_t begin : documents->boundaries) owner += at::arange(m, options).ge(begin);
    hidden = hidden.logical_or(owner.unsqueeze(1).ne(owner));
  }
  Tensor scores = at::matmul(query, key.transpose(2, 3)) / std::sqrt(static_cast<double>(query.size(3)));
  if (slopes) scores = scores - slopes->to(at::kDouble).view({-1, 1, 1}) * distance;
  scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(scores, 3), value);
}

void expect_equal(const Inputs& in, const Tensor* slopes, const ops::Documents* documents, double tolerance,
                  const std::string& what) {
  const std::vector<Tensor> leaves = {in.query, in.key, in.value};
  const Tensor expected = reference(in, slopes, documents);
  const Tensor out = ops::softmax_attention(in.query, in.key, in.value, slopes, documents);
  ASSERT_EQ(out.sizes(), in.query.sizes()) << what;
  EXPECT_EQ(out.scalar_type(), in.query.scalar_type()) << what;
  EXPECT_LT(relative_difference(out, expected), tolerance) << what;
  const auto grads = torch::autograd::grad({out}, leaves, {in.out_grad});
  const auto expected_grads = torch::autograd::grad({expected}, leaves, {in.out_grad.to(at::kDouble)});
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_LT(relative_difference(grads[i], expected_grads[i]), tolerance) << what << ", gradient " << i;
  }
}

Tensor slopes_on(const at::Device& device) {
  return at::tensor({1.0, 0.3, 0.0625, 0.0}, at::kDouble).to(device, at::kFloat);
}

double tolerance_of(at::ScalarType type) {
  return type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 2e-2;
}

class SoftmaxAttention : public testing::TestWithParam<at::ScalarType> {};

TEST_P(SoftmaxAttention, EqualsTheDefinition) {
  const Tensor slopes = slopes_on(at::kCPU);
  for (const Tensor* bias : {static_cast<const Tensor*>(nullptr), &slopes}) {
    const std::string suffix = bias ? " with ALiBi" : "";
    expect_equal(make_inputs({2, 4, 2, 40, 40, 16}, GetParam()), bias, nullptr, tolerance_of(GetParam()),
                 "square" + suffix);
    expect_equal(make_inputs({2, 4, 4, 1, 1, 16}, GetParam()), bias, nullptr, tolerance_of(GetParam()),
                 "one token" + suffix);
    expect_equal(make_inputs({1, 4, 1, 1, 33, 16}, GetParam()), bias, nullptr, tolerance_of(GetParam()),
                 "one query" + suffix);
    expect_equal(make_inputs({2, 4, 2, 7, 33, 8}, GetParam()), bias, nullptr, tolerance_of(GetParam()),
                 "last queries" + suffix);
  }
}

TEST_P(SoftmaxAttention, DocumentsAreSeparate) {
  const Tensor slopes = slopes_on(at::kCPU);
  const ops::Documents documents = ops::make_documents({0, 3, 3, 4, 25, 40}, 40, at::kCPU);
  for (const Tensor* bias : {static_cast<const Tensor*>(nullptr), &slopes}) {
    expect_equal(make_inputs({1, 4, 2, 40, 40, 16}, GetParam()), bias, &documents, tolerance_of(GetParam()),
                 bias ? "ALiBi" : "plain");
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SoftmaxAttention, testing::Values(at::kDouble, at::kFloat, at::kBFloat16),
                         [](const auto& test) { return std::string(at::toString(test.param)); });

TEST(SoftmaxAttentionChunks, ManyMasksEqualOne) {
  // 16 heads x 2048 keys: a mask of 8 MiB holds 64 rows.
  const Shape shape{1, 16, 16, 300, 2048, 4};
  const Inputs in = make_inputs(shape, at::kFloat);
  const Tensor slopes = at::pow(0.5, at::arange(16, at::kFloat));
  expect_equal(in, &slopes, nullptr, 1e-5, "chunks");
}

/// The arithmetic of a fused kernel: products of inputs in their type, sums in fp32.
Tensor scores_by_dims(const Tensor& slopes, const Tensor& positions, double scale, at::ScalarType type) {
  Tensor query_dims, key_dims;
  ops::alibi_dims(slopes, positions, scale, at::empty({0}, type), query_dims, key_dims);
  EXPECT_EQ(query_dims.scalar_type(), type);
  EXPECT_EQ(query_dims.size(1), ops::kAlibiDims);
  return at::mm(query_dims.to(at::kDouble), key_dims.to(at::kDouble).t()) * scale;
}

TEST(AlibiDims, GiveSlopeTimesPosition) {
  const Tensor slopes = at::tensor({1.0, 1.0 / 3, 0.7071067811865476, 0.001, 0.0}, at::kDouble);
  const Tensor positions =
      at::tensor({0, 1, 63, 127, 128, 255, 257, 16383, 16384, 100001, 4194303}, at::kLong);
  const Tensor expected = at::outer(slopes, positions.to(at::kDouble));
  for (const double scale : {0.125, 1 / std::sqrt(96.0)}) {
    for (const auto& [type, tolerance] :
         {std::pair(at::kBFloat16, std::exp2(-16)), std::pair(at::kFloat, 1e-7)}) {
      const Tensor got = scores_by_dims(slopes, positions, scale, type);
      const Tensor error = (got - expected).abs() / expected.clamp_min(1e-300);
      EXPECT_LT(at::where(expected.eq(0), got.abs(), error).max().item<double>(), tolerance) << type;
      // Digits see the same slope: bias differences are right to the same relative error.
      const Tensor differences = got.diff(1, 1), expected_differences = expected.diff(1, 1);
      EXPECT_LT((differences - expected_differences)
                    .abs()
                    .div(expected_differences.clamp_min(1e-300))
                    .slice(0, 0, 4)
                    .max()
                    .item<double>(),
                tolerance)
          << type;
    }
  }
}

TEST(AlibiDims, EqualTheMaskInAttention) {
  const Inputs in = make_inputs({1, 4, 4, 200, 200, 16}, at::kFloat);
  const at::NoGradGuard no_grad;
  const Tensor slopes = slopes_on(at::kCPU);
  const double scale = 0.25;
  for (const auto& [type, tolerance] : {std::pair(at::kFloat, 1e-5), std::pair(at::kBFloat16, 2e-2)}) {
    Tensor query_dims, key_dims;
    ops::alibi_dims(slopes, at::arange(200, at::kLong), scale, in.query.to(type), query_dims, key_dims);
    const Tensor query =
        at::cat({in.query.to(type), query_dims.unsqueeze(1).unsqueeze(0).expand({1, 4, 200, 8})}, 3);
    const Tensor key = at::cat({in.key.to(type), key_dims.expand({1, 4, 200, 8})}, 3);
    const Tensor value = at::constant_pad_nd(in.value.to(type), {0, 8});
    const Tensor out =
        at::scaled_dot_product_attention(query, key, value, {}, 0, true, scale).narrow(3, 0, 16);
    EXPECT_LT(relative_difference(out, reference(in, &slopes, nullptr)), tolerance) << type;
  }
}

TEST(SoftmaxAttentionArguments, AreCheckedByName) {
  const auto message = [](const Inputs& in, const Tensor* slopes, const ops::Documents* documents) {
    try {
      ops::softmax_attention(in.query, in.key, in.value, slopes, documents);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing thrown");
  };
  const Tensor slopes = at::ones({3});
  const ops::Documents documents = ops::make_documents({0, 5}, 5, at::kCPU);
  EXPECT_NE(message(make_inputs({1, 3, 2}, at::kFloat), nullptr, nullptr).find("multiple of key/value heads"),
            std::string::npos);
  EXPECT_NE(message(make_inputs({1, 4, 2, 9, 5}, at::kFloat), nullptr, nullptr).find("at least the query's"),
            std::string::npos);
  EXPECT_NE(message(make_inputs({}, at::kFloat), &slopes, nullptr).find("alibi_slopes"), std::string::npos);
  EXPECT_NE(message(make_inputs({}, at::kFloat), nullptr, &documents).find("documents"), std::string::npos);
}

TEST(Documents, AreChecked) {
  EXPECT_THROW(ops::make_documents({}, 5, at::kCPU), Error);
  EXPECT_THROW(ops::make_documents({1, 5}, 5, at::kCPU), Error);
  EXPECT_THROW(ops::make_documents({0, 4}, 5, at::kCPU), Error);
  EXPECT_THROW(ops::make_documents({0, 4, 3, 5}, 5, at::kCPU), Error);
  const ops::Documents documents = ops::make_documents({0, 2, 2, 5}, 5, at::kCPU);
  EXPECT_TRUE(documents.positions.equal(at::tensor({0, 1, 0, 1, 2}, at::kLong)));
  EXPECT_EQ(documents.longest, 3);
  EXPECT_EQ(documents.count(), 3);
}

TEST(SoftmaxAttentionGpu, EqualsTheDefinition) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  const at::Device device("cuda:0");
  const Tensor slopes = slopes_on(device);
  const ops::Documents documents = ops::make_documents({0, 1, 70, 70, 131, 200}, 200, device);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t head_dim : {64, 128, 20}) {
      for (const Tensor* bias : {static_cast<const Tensor*>(nullptr), &slopes}) {
        const std::string what = str(at::toString(type), " head_dim ", head_dim, bias ? " ALiBi" : "");
        // In fp32, the bias as head dimensions is rounded with sums of the size slope * tokens.
        const double tolerance = type == at::kFloat ? 1e-4 : tolerance_of(type);
        expect_equal(make_inputs({2, 4, 2, 200, 200, head_dim}, type, device), bias, nullptr, tolerance,
                     what);
        expect_equal(make_inputs({1, 4, 2, 200, 200, head_dim}, type, device), bias, &documents, tolerance,
                     what + " packed");
        expect_equal(make_inputs({2, 4, 2, 1, 130, head_dim}, type, device), bias, nullptr, tolerance,
                     what + " one query");
        expect_equal(make_inputs({2, 4, 2, 17, 130, head_dim}, type, device), bias, nullptr, tolerance,
                     what + " last queries");
      }
    }
  }
}

TEST(SoftmaxAttentionGpu, BiasIsAccurateFarOut) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  // Positions up to 16384 with slope 1: a bias rounded to bf16 would be off by 32.
  const at::Device device("cuda:0");
  const Shape shape{1, 4, 4, 16384, 16384, 64};
  const Inputs in = make_inputs(shape, at::kBFloat16, device);
  const at::NoGradGuard no_grad;
  const Tensor slopes = slopes_on(device);
  const Tensor out = ops::softmax_attention(in.query, in.key, in.value, &slopes);
  const Inputs last{in.query.narrow(2, 16320, 64), in.key, in.value, {}};
  EXPECT_LT(relative_difference(out.narrow(2, 16320, 64), reference(last, &slopes, nullptr)), 2e-2);
}

}  // namespace
}  // namespace asplash::test
