#include "asplash/eval/attention_capture.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "asplash/base/error.h"
#include "asplash/model/attention_observer.h"
#include "asplash/ops/entmax_attention.h"
#include "model/tiny.h"
#include "temporary_folder.h"

namespace asplash::eval {
namespace {

using at::Tensor;
using Layers = std::vector<int64_t>;

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

/// Tokens 0 ... count - 1 modulo 29, shuffled a little; documents begin at `begins`.
TokenStream some_stream(int64_t count, const Layers& begins) {
  TokenStream stream;
  stream.tokens = count;
  stream.vocab_size = 29;
  stream.read = [](int64_t begin, int64_t n, int32_t* out) {
    for (int64_t i = begin; i < begin + n; ++i) *out++ = static_cast<int32_t>((i * i + 7 * i) % 29);
  };
  stream.document_begins = [begins](int64_t begin, int64_t end) {
    return Layers(std::lower_bound(begins.begin(), begins.end(), begin),
                  std::lower_bound(begins.begin(), begins.end(), end));
  };
  return stream;
}

std::map<std::string, Tensor> through_a_file(const checkpoint::NamedTensors& tensors) {
  const TemporaryFolder folder;
  checkpoint::write_safetensors_atomically(folder / "capture.safetensors", tensors, {});
  return checkpoint::read_safetensors(folder / "capture.safetensors").tensors;
}

class LastOutput : public model::AttentionObserver {
 public:
  void attended(int64_t layer, const model::AttentionTensors& tensors) override {
    if (layer == 1) output = tensors.output;
  }
  Tensor output;
};

std::vector<test::NamedConfig> entmax_configs() {
  std::vector<test::NamedConfig> configs;
  for (const test::NamedConfig& named : test::all_configs())
    if (named.config.attention.function == model::AttentionFunction::entmax) configs.push_back(named);
  return configs;
}

class CapturedModel : public testing::TestWithParam<test::NamedConfig> {};

TEST_P(CapturedModel, FileReproducesTheAttentionOfTheModel) {
  const model::ModelConfig config = GetParam().config.resolved();
  const at::NoGradGuard no_grad;
  const auto decoder = test::disturbed_decoder(config, at::kBFloat16);
  const TokenStream stream = some_stream(500, {0, 30, 63, 300});
  for (const bool packed : {false, true}) {
    const AttentionCapture what{{1}, {20, 250}, 70, packed, "cpu"};
    const auto file = through_a_file(capture_attention(*decoder, stream, what));
    EXPECT_EQ(file.size(), 2 * 5 + 1U);
    for (size_t window = 0; window < 2; ++window) {
      const std::string name = str("window_", window);
      const auto part = [&](const char* which) { return file.at(name + ".layer_1." + which).unsqueeze(0); };
      const Tensor& tokens = file.at(name + ".tokens");
      const Tensor& cu_seqlens = file.at(name + ".cu_seqlens");
      EXPECT_EQ(part("query").scalar_type(), at::kBFloat16);
      EXPECT_EQ(part("query").sizes(), at::IntArrayRef({1, 4, 70, config.head_dim}));
      EXPECT_EQ(part("key").sizes(), at::IntArrayRef({1, 2, 70, config.head_dim}));
      EXPECT_EQ(cu_seqlens.numel(), !packed ? 2 : window == 0 ? 4 : 3);

      // What a reader does: the operator with the slopes from the file, and alpha.
      ops::EntmaxOptions options;
      options.alpha = config.attention.alpha;
      const Tensor mixed = ops::entmax_attention(part("query"), part("key"), part("value"), options,
                                                 &file.at("alibi_slopes"), &cu_seqlens, &cu_seqlens);
      LastOutput observer;
      model::ModelInput input{tokens.unsqueeze(0), {}, &observer};
      if (packed) {
        const auto* data = cu_seqlens.const_data_ptr<int32_t>();
        input.cu_seqlens.assign(data, data + cu_seqlens.numel());
      }
      decoder->logits(input);
      EXPECT_TRUE(at::equal(mixed, observer.output));

      std::vector<int32_t> expected(70);
      stream.read(what.begins[window], 70, expected.data());
      EXPECT_TRUE(at::equal(tokens, at::tensor(expected, at::kInt)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, CapturedModel, testing::ValuesIn(entmax_configs()),
                         [](const auto& param) { return param.param.name; });

TEST(AttentionCapture, RefusesValuesThatAreNotFinite) {
  const auto config = test::tiny_config(model::AttentionFunction::entmax, model::PositionKind::nope);
  const auto decoder = model::make_decoder(config.resolved(), "cpu", at::kFloat, 1);
  for (const model::Parameter& parameter : decoder->parameters()) {
    if (parameter.name != "model.layers.1.self_attn.k_proj.weight") continue;
    const at::NoGradGuard no_grad;
    parameter.value[3][2] = std::numeric_limits<float>::infinity();
  }
  const TokenStream stream = some_stream(100, {0});
  const std::string message = message_of([&] {
    capture_attention(*decoder, stream, {{0, 1}, {10}, 20, false, "cpu"});
  });
  EXPECT_NE(message.find("window_0.layer_1.key"), std::string::npos) << message;
  EXPECT_NO_THROW(capture_attention(*decoder, stream, {{0}, {10}, 20, false, "cpu"}));
}

TEST(AttentionCapture, SpreadsWindowsOverTheData) {
  EXPECT_EQ(spread_windows(100, 20, 1), Layers({40}));
  EXPECT_EQ(spread_windows(100, 20, 2), Layers({15, 65}));
  EXPECT_EQ(spread_windows(100, 20, 5), Layers({0, 20, 40, 60, 80}));
  EXPECT_EQ(spread_windows(100, 100, 1), Layers({0}));
  EXPECT_EQ(message_of([] { spread_windows(100, 101, 1); }),
            "capture-context 101: larger than the data, which has 100 tokens");
  EXPECT_EQ(message_of([] { spread_windows(100, 30, 4); }),
            "capture-windows 4: of 30 tokens, the data's 100 tokens hold at most 3");
  EXPECT_NE(message_of([] { spread_windows(100, 30, int64_t{1} << 62); }).find("at most 3"),
            std::string::npos);
}

TEST(AttentionCapture, ChoosesLayers) {
  EXPECT_EQ(layers_to_capture({}, 3), Layers({0, 1, 2}));
  EXPECT_EQ(layers_to_capture({2, 0}, 3), Layers({0, 2}));
  EXPECT_EQ(message_of([] {
              layers_to_capture({1, 3}, 3);
            }),
            "capture-layers 3: the model has layers 0 to 2");
  EXPECT_EQ(message_of([] { layers_to_capture({1, 1}, 3); }), "capture-layers 1: named twice");
}

TEST(AttentionCapture, TellsTheKindsOfHeads) {
  using model::AttentionFunction;
  using model::PositionKind;
  const auto kinds = [](PositionKind kind) {
    return head_kinds(test::tiny_config(AttentionFunction::entmax, kind));
  };
  using Kinds = std::vector<std::string>;
  EXPECT_EQ(kinds(PositionKind::nape), Kinds({"alibi", "alibi", "nope", "nope"}));
  EXPECT_EQ(kinds(PositionKind::rope), Kinds(4, "rope"));
  EXPECT_EQ(kinds(PositionKind::nope), Kinds(4, "nope"));
  EXPECT_EQ(kinds(PositionKind::alibi), Kinds(4, "alibi"));
}

}  // namespace
}  // namespace asplash::eval
