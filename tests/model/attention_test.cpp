// One layer's attention against its definition, written out pair by pair in fp64: which heads turn, lean on
// distance or change their temperature, and by how much.

#include "asplash/model/attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/tiny.h"
#include "ops/entmax_thresholds.h"
#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

constexpr int64_t kTokens = 11;

/// Weights of order one in every part, so that none hides a mistake.
model::AttentionWeights random_weights(const model::ModelConfig& config) {
  model::AttentionWeights weights =
      model::initial_weights(config, at::kCPU, at::kDouble, 5).layers[0].attention;
  const at::NoGradGuard no_grad;
  at::manual_seed(6);
  for (const Tensor* norm : {&weights.q_norm, &weights.k_norm}) {
    if (norm->defined()) norm->add_(0.3 * at::randn_like(*norm));
  }
  for (const Tensor* rows : {&weights.temperature_beta, &weights.temperature_gamma}) {
    if (rows->defined()) rows->add_(0.3 * at::randn_like(*rows));
  }
  return weights;
}

/// x / sqrt(mean(x^2) + eps) * scale
Tensor normed(const Tensor& x, const Tensor& scale, double eps) {
  return x / std::sqrt(x.square().mean().item<double>() + eps) * scale;
}

/// Llama's rotation: the pair (x_j, x_(j + d/2)) turns by position * theta^(-2j/d).
Tensor rotated(const Tensor& x, int64_t position, double theta) {
  Tensor turned = x.clone();
  const int64_t half = x.size(0) / 2;
  for (int64_t j = 0; j < half; ++j) {
    const double angle =
        static_cast<double>(position) * std::pow(theta, -static_cast<double>(j) / static_cast<double>(half));
    const double a = x[j].item<double>(), b = x[j + half].item<double>();
    turned[j] = a * std::cos(angle) - b * std::sin(angle);
    turned[j + half] = b * std::cos(angle) + a * std::sin(angle);
  }
  return turned;
}

/// 1 + beta log(i + 1)^gamma of a NoPE head, i = position + 1 (ASEntmax, arXiv 2506.16640).
double temperature(const model::AttentionWeights& weights, int64_t nope_head, const Tensor& x,
                   int64_t position) {
  const double beta = std::log1p(std::exp(weights.temperature_beta[nope_head].dot(x).item<double>()));
  const double gamma = 2 * std::tanh(weights.temperature_gamma[nope_head].dot(x).item<double>());
  return 1 + beta * std::pow(std::log(static_cast<double>(position + 2)), gamma);
}

std::vector<double> weights_of(const std::vector<double>& scores, const model::AttentionConfig& config) {
  std::vector<double> weights;
  if (config.function == model::AttentionFunction::softmax) {
    double sum = 0;
    for (const double s : scores) sum += std::exp(s);
    for (const double s : scores) weights.push_back(std::exp(s) / sum);
    return weights;
  }
  std::vector<double> z;
  for (const double s : scores) z.push_back((config.alpha - 1) * s);
  const double tau = sorted_threshold(z, config.alpha);
  for (const double value : z)
    weights.push_back(std::pow(std::max(0.0, value - tau), 1 / (config.alpha - 1)));
  return weights;
}

/// x: [tokens, width]; the result as Attention::forward's, without the batch.
Tensor reference(const model::ModelConfig& c, const model::AttentionWeights& weights, const Tensor& x) {
  const bool rope = c.positions.kind == model::PositionKind::rope;
  const std::vector<double> slopes = c.alibi_slopes();
  const auto head_of = [&](const Tensor& matrix, int64_t head, int64_t i, const Tensor& norm) {
    Tensor part = matrix.narrow(0, head * c.head_dim, c.head_dim).mv(x[i]);
    if (norm.defined()) part = normed(part, norm, c.norm_eps);
    return rope ? rotated(part, i, c.positions.rope_theta) : part;
  };
  Tensor mixed = at::zeros({x.size(0), c.heads * c.head_dim}, at::kDouble);
  for (int64_t h = 0; h < c.heads; ++h) {
    const int64_t kv_head = h / (c.heads / c.kv_heads);
    const double slope = slopes.empty() ? 0 : slopes[static_cast<size_t>(h)];
    for (int64_t i = 0; i < x.size(0); ++i) {
      Tensor query = head_of(weights.q_proj, h, i, weights.q_norm);
      if (c.attention.adaptive_temperature && h >= c.alibi_heads())
        query = query * temperature(weights, h - c.alibi_heads(), x[i], i);
      std::vector<double> scores;
      for (int64_t j = 0; j <= i; ++j) {
        const double product = query.dot(head_of(weights.k_proj, kv_head, j, weights.k_norm)).item<double>();
        scores.push_back(product / std::sqrt(static_cast<double>(c.head_dim)) -
                         slope * static_cast<double>(i - j));
      }
      const std::vector<double> shares = weights_of(scores, c.attention);
      const Tensor out = mixed[i].narrow(0, h * c.head_dim, c.head_dim);
      const Tensor value = weights.v_proj.narrow(0, kv_head * c.head_dim, c.head_dim);
      for (int64_t j = 0; j <= i; ++j) out.add_(value.mv(x[j]), shares[static_cast<size_t>(j)]);
    }
  }
  return mixed.mm(weights.o_proj.t());
}

class AttentionLayer : public testing::TestWithParam<NamedConfig> {};

TEST_P(AttentionLayer, EqualsItsDefinition) {
  const model::ModelConfig config = GetParam().config.resolved();
  const at::NoGradGuard no_grad;
  const model::AttentionWeights weights = random_weights(config);
  const Tensor x = at::randn({2, kTokens, config.width}, at::kDouble);
  model::Positions positions(config, at::kCPU, at::kDouble);
  const model::Attention attention(config, at::kCPU, at::kDouble);
  const Tensor out = attention.forward(weights, x, positions.stream(0, kTokens), nullptr, nullptr, nullptr);
  for (int64_t row = 0; row < x.size(0); ++row)
    EXPECT_LT(relative_difference(out[row], reference(config, weights, x[row])), 1e-10) << row;
}

TEST_P(AttentionLayer, CountsPositionsFromEachDocumentsFirstToken) {
  const model::ModelConfig config = GetParam().config.resolved();
  const at::NoGradGuard no_grad;
  const model::AttentionWeights weights = random_weights(config);
  const Tensor x = at::randn({1, kTokens, config.width}, at::kDouble);
  model::Positions positions(config, at::kCPU, at::kDouble);
  const model::Attention attention(config, at::kCPU, at::kDouble);
  const std::vector<int32_t> boundaries = {0, 1, 4, kTokens};
  const model::Sequence packed = positions.packed(ops::make_documents(boundaries, kTokens, at::kCPU));
  const Tensor out = attention.forward(weights, x, packed, nullptr, nullptr, nullptr);
  for (size_t d = 0; d + 1 < boundaries.size(); ++d) {
    const int64_t length = boundaries[d + 1] - boundaries[d];
    const Tensor expected = reference(config, weights, x[0].narrow(0, boundaries[d], length));
    EXPECT_LT(relative_difference(out[0].narrow(0, boundaries[d], length), expected), 1e-10) << d;
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, AttentionLayer, testing::ValuesIn(all_configs()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace asplash::test
