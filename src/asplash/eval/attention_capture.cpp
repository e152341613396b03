#include "asplash/eval/attention_capture.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "asplash/base/error.h"
#include "asplash/data/loader.h"
#include "asplash/model/attention_observer.h"
#include "asplash/model/language_model.h"

namespace asplash::eval {
namespace {

using at::Tensor;

/// Keeps query, key and value of the chosen layers of one window.
class Recorder final : public model::AttentionObserver {
 public:
  Recorder(const std::vector<int64_t>& layers, std::string window, checkpoint::NamedTensors& tensors)
      : layers_(layers), window_(std::move(window)), tensors_(tensors) {}

  void attended(int64_t layer, const model::AttentionTensors& seen) override {
    if (!std::binary_search(layers_.begin(), layers_.end(), layer)) return;
    keep(layer, "query", seen.query);
    keep(layer, "key", seen.key);
    keep(layer, "value", seen.value);
  }

 private:
  void keep(int64_t layer, const char* name, const Tensor& tensor) {
    const std::string full_name = str(window_, ".layer_", layer, ".", name);
    // A copy also where the tensor is on the host already: the model may use its memory again.
    Tensor host = at::empty(tensor.sizes().slice(1), tensor.options().device(at::kCPU));
    host.copy_(tensor.squeeze(0));
    if (!at::isfinite(host).all().item<bool>())
      fail(full_name,
           " holds values that are not finite; the model's weights are damaged or overflow in "
           "this precision (try --precision fp32)");
    tensors_.emplace_back(full_name, std::move(host));
  }

  const std::vector<int64_t>& layers_;
  std::string window_;
  checkpoint::NamedTensors& tensors_;
};

std::vector<int32_t> boundaries_of(const TokenStream& stream, const AttentionCapture& capture,
                                   int64_t begin) {
  std::vector<int32_t> boundaries = {0};
  if (capture.packed) {
    for (const int64_t document : stream.document_begins(begin + 1, begin + capture.context))
      boundaries.push_back(static_cast<int32_t>(document - begin));
  }
  boundaries.push_back(static_cast<int32_t>(capture.context));
  return boundaries;
}

}  // namespace

std::vector<int64_t> layers_to_capture(const std::vector<int64_t>& layers, int64_t layers_of_model) {
  std::vector<int64_t> chosen = layers;
  if (chosen.empty()) {
    for (int64_t layer = 0; layer < layers_of_model; ++layer) chosen.push_back(layer);
  }
  std::sort(chosen.begin(), chosen.end());
  for (const int64_t layer : chosen) {
    if (layer < 0 || layer >= layers_of_model)
      fail("capture-layers ", layer, ": the model has layers 0 to ", layers_of_model - 1);
  }
  const auto twice = std::adjacent_find(chosen.begin(), chosen.end());
  if (twice != chosen.end()) fail("capture-layers ", *twice, ": named twice");
  return chosen;
}

std::vector<int64_t> spread_windows(int64_t tokens, int64_t context, int64_t windows) {
  if (context < 1) fail("capture-context ", context, ": must be at least 1");
  if (context > tokens)
    fail("capture-context ", context, ": larger than the data, which has ", tokens, " tokens");
  if (windows < 1) fail("capture-windows ", windows, ": must be at least 1");
  const int64_t share = tokens / windows;
  if (share < context)
    fail("capture-windows ", windows, ": of ", context, " tokens, the data's ", tokens,
         " tokens hold at most ", tokens / context);
  std::vector<int64_t> begins;
  for (int64_t window = 0; window < windows; ++window)
    begins.push_back(window * share + (share - context) / 2);
  return begins;
}

std::vector<std::string> head_kinds(const model::ModelConfig& config) {
  const bool rope = config.positions.kind == model::PositionKind::rope;
  std::vector<std::string> kinds(static_cast<size_t>(config.heads), rope ? "rope" : "nope");
  std::fill_n(kinds.begin(), config.alibi_heads(), "alibi");
  return kinds;
}

checkpoint::NamedTensors capture_attention(model::LanguageModel& model, const TokenStream& stream,
                                           const AttentionCapture& capture) {
  const model::ModelConfig& config = model.config();
  if (stream.vocab_size > config.vocab_size)
    fail("the data's vocabulary (", stream.vocab_size, ") is larger than the model's (", config.vocab_size,
         ")");
  const at::NoGradGuard no_grad;
  checkpoint::NamedTensors tensors;
  for (size_t index = 0; index < capture.begins.size(); ++index) {
    const std::string name = str("window_", index);
    const int64_t begin = capture.begins[index];
    const Tensor tokens = at::empty({capture.context}, at::kInt);
    stream.read(begin, capture.context, tokens.mutable_data_ptr<int32_t>());
    const std::vector<int32_t> boundaries = boundaries_of(stream, capture, begin);
    tensors.emplace_back(name + ".tokens", tokens);
    tensors.emplace_back(name + ".cu_seqlens", at::tensor(boundaries, at::kInt));

    Recorder recorder(capture.layers, name, tensors);
    model::ModelInput input;
    input.tokens = tokens.unsqueeze(0).to(at::Device(capture.device));
    if (capture.packed) input.cu_seqlens = boundaries;
    input.observer = &recorder;
    // Nothing is predicted: of the calls that run all layers, this one needs no memory for logits.
    model.token_losses(input, at::full_like(input.tokens, data::kIgnoredTarget));
  }
  std::vector<double> slopes = config.alibi_slopes();
  slopes.resize(static_cast<size_t>(config.heads), 0.0);
  tensors.emplace_back("alibi_slopes", at::tensor(slopes, at::kDouble).to(at::kFloat));
  return tensors;
}

}  // namespace asplash::eval
