// What an observer is shown is what the model computes with.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <optional>

#include "asplash/model/attention_observer.h"
#include "asplash/ops/documents.h"
#include "asplash/ops/entmax_attention.h"
#include "asplash/ops/pointwise.h"
#include "asplash/ops/softmax_attention.h"
#include "model/tiny.h"
#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

class Collector : public model::AttentionObserver {
 public:
  void attended(int64_t layer, const model::AttentionTensors& tensors) override {
    layers.push_back(layer);
    seen.push_back(tensors);
  }
  std::vector<int64_t> layers;
  std::vector<model::AttentionTensors> seen;
};

class ObservedDecoder : public testing::TestWithParam<NamedConfig> {
 protected:
  model::ModelConfig config() const { return GetParam().config.resolved(); }
};

/// The operator once more, from nothing but what was shown and the configuration.
Tensor attention_of(const model::ModelConfig& config, const model::AttentionTensors& seen,
                    const std::vector<int32_t>& cu_seqlens) {
  std::optional<Tensor> slopes;
  if (!config.alibi_slopes().empty()) slopes = at::tensor(config.alibi_slopes(), at::kFloat);
  const Tensor* const bias = slopes ? &*slopes : nullptr;
  std::optional<ops::Documents> documents;
  if (!cu_seqlens.empty()) documents = ops::make_documents(cu_seqlens, seen.query.size(2), at::kCPU);
  if (config.attention.function == model::AttentionFunction::softmax)
    return ops::softmax_attention(seen.query, seen.key, seen.value, bias, documents ? &*documents : nullptr);
  ops::EntmaxOptions options;
  options.alpha = config.attention.alpha;
  const Tensor* const boundaries = documents ? &documents->cu_seqlens : nullptr;
  return ops::entmax_attention(seen.query, seen.key, seen.value, options, bias, boundaries, boundaries);
}

TEST_P(ObservedDecoder, ShowsEachLayersOperatorAndChangesNothing) {
  const at::NoGradGuard no_grad;
  auto decoder = disturbed_decoder(config(), at::kFloat);
  for (const std::vector<int32_t>& cu_seqlens :
       {std::vector<int32_t>{}, std::vector<int32_t>{0, 5, 11, 22}}) {
    model::ModelInput input{random_tokens(2, 11, 29, 1), cu_seqlens};
    const Tensor unobserved = decoder->logits(input);
    Collector collector;
    input.observer = &collector;
    EXPECT_TRUE(at::equal(decoder->logits(input), unobserved));
    ASSERT_EQ(collector.layers, (std::vector<int64_t>{0, 1}));
    const int64_t batch = cu_seqlens.empty() ? 2 : 1;
    for (const model::AttentionTensors& seen : collector.seen) {
      EXPECT_EQ(seen.query.sizes(), at::IntArrayRef({batch, 4, 22 / batch, config().head_dim}));
      EXPECT_EQ(seen.key.sizes(), at::IntArrayRef({batch, 2, 22 / batch, config().head_dim}));
      EXPECT_EQ(seen.value.sizes(), seen.key.sizes());
      EXPECT_TRUE(at::equal(attention_of(config(), seen, cu_seqlens), seen.output));
    }
  }
}

TEST_P(ObservedDecoder, LogitsFollowFromTheOutputShown) {
  const at::NoGradGuard no_grad;
  model::ModelConfig one_layer = config();
  one_layer.layers = 1;
  auto decoder = disturbed_decoder(one_layer, at::kDouble);
  const auto weight = [&](const std::string& name) {
    for (const model::Parameter& parameter : decoder->parameters())
      if (parameter.name == name) return parameter.value;
    return Tensor();
  };
  Collector collector;
  const Tensor tokens = random_tokens(2, 11, 29, 1);
  const Tensor logits = decoder->logits({tokens, {}, &collector});

  const std::string layer = "model.layers.0.";
  const Tensor output = collector.seen.at(0).output.transpose(1, 2).flatten(2);
  const Tensor stream = at::embedding(weight("model.embed_tokens.weight"), tokens) +
                        at::linear(output, weight(layer + "self_attn.o_proj.weight"));
  const Tensor normed =
      ops::rms_norm(stream, weight(layer + "post_attention_layernorm.weight"), one_layer.norm_eps);
  const Tensor inner = at::silu(at::linear(normed, weight(layer + "mlp.gate_proj.weight"))) *
                       at::linear(normed, weight(layer + "mlp.up_proj.weight"));
  const Tensor last = stream + at::linear(inner, weight(layer + "mlp.down_proj.weight"));
  const Tensor head = weight(one_layer.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  const Tensor expected =
      at::linear(ops::rms_norm(last, weight("model.norm.weight"), one_layer.norm_eps), head);
  EXPECT_LT((logits - expected).abs().max().item<double>(), 1e-9);
}

INSTANTIATE_TEST_SUITE_P(Configs, ObservedDecoder, testing::ValuesIn(all_configs()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace asplash::test
