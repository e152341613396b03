#include <ATen/ATen.h>

#include <utility>

#include "asplash/base/error.h"
#include "asplash/model/attention.h"
#include "asplash/model/language_model.h"
#include "asplash/model/sequence.h"
#include "asplash/model/weights.h"
#include "asplash/ops/linear_cross_entropy.h"
#include "asplash/ops/pointwise.h"

namespace asplash::model {
namespace {

using at::Tensor;

class Cache final : public DecodeState {
 public:
  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }

 private:
  friend class Decoder;
  Cache(int64_t batch, int64_t capacity) : batch_(batch), capacity_(capacity) {}

  int64_t batch_;
  int64_t capacity_;
  int64_t length_ = 0;
  std::vector<LayerCache> layers_;
  /// Cast once for the whole sequence; where no cast is needed, the parameters themselves.
  std::vector<LayerWeights> weights_;
  Tensor head_;
};

class Decoder final : public LanguageModel {
 public:
  Decoder(const ModelConfig& config, const at::Device& device, at::ScalarType compute_type, uint64_t seed)
      : config_(config),
        device_(device),
        compute_type_(compute_type),
        weights_(initial_weights(config, device, wide_type(), seed)),
        parameters_(named_parameters(weights_)),
        positions_(config, device, wide_type()),
        attention_(config, device, compute_type) {}

  const ModelConfig& config() const override { return config_; }
  const std::vector<Parameter>& parameters() const override { return parameters_; }

  Tensor logits(const ModelInput& input) override {
    const Tensor hidden = hidden_states(input, nullptr);
    return at::linear(hidden, weights_.head.to(compute_type_))
        .to(wide_type())
        .view({input.tokens.size(0), input.tokens.size(1), config_.vocab_size});
  }

  Tensor loss_sum(const ModelInput& input, const Tensor& targets, AttentionStatistics* statistics) override {
    check_targets(input, targets);
    const Tensor hidden = hidden_states(input, statistics);
    return ops::linear_cross_entropy_sum(hidden.flatten(0, 1), weights_.head, targets.flatten());
  }

  Tensor token_losses(const ModelInput& input, const Tensor& targets) override {
    check_targets(input, targets);
    const at::NoGradGuard no_grad;
    const Tensor hidden = hidden_states(input, nullptr);
    return ops::linear_cross_entropy_rows(hidden.flatten(0, 1), weights_.head, targets.flatten())
        .view(targets.sizes());
  }

  std::unique_ptr<DecodeState> new_decode_state(int64_t batch, int64_t capacity) override {
    if (batch < 1 || capacity < 1) {
      fail("decode: batch and capacity must be at least 1, got ", batch, " and ", capacity);
    }
    const at::NoGradGuard no_grad;
    std::unique_ptr<Cache> state(new Cache(batch, capacity));
    const auto options = at::TensorOptions(device_).dtype(compute_type_);
    for (const LayerWeights& layer : weights_.layers) {
      const std::vector<int64_t> sizes = {batch, config_.kv_heads, capacity, config_.head_dim};
      state->layers_.push_back({at::empty(sizes, options), at::empty(sizes, options)});
      state->weights_.push_back(cast_matrices(layer, compute_type_));
    }
    state->head_ = weights_.head.to(compute_type_);
    return state;
  }

  Tensor decode(const Tensor& tokens, DecodeState& decode_state) override {
    auto& state = dynamic_cast<Cache&>(decode_state);
    check_tokens(tokens);
    const int64_t count = tokens.size(1);
    if (tokens.size(0) != state.batch_) {
      fail("decode: the state is for a batch of ", state.batch_, ", got tokens ", tokens.sizes());
    }
    if (state.length_ + count > state.capacity_) {
      fail("decode: ", state.length_, " tokens and ", count, " more are beyond the state's capacity of ",
           state.capacity_);
    }
    const at::NoGradGuard no_grad;
    const Sequence sequence = positions_.stream(state.length_, count);
    Tensor stream = at::embedding(weights_.embeddings, tokens);
    for (size_t i = 0; i < state.layers_.size(); ++i) {
      stream = layer(state.weights_[i], stream, sequence, &state.layers_[i], nullptr, nullptr);
    }
    state.length_ += count;
    const Tensor last = ops::rms_norm(stream.select(1, count - 1), weights_.norm, config_.norm_eps);
    return at::linear(last.to(compute_type_), state.head_).to(wide_type());
  }

 private:
  /// Of parameters, residual stream, norms and losses.
  at::ScalarType wide_type() const { return compute_type_ == at::kDouble ? at::kDouble : at::kFloat; }

  void check_tokens(const Tensor& tokens) const {
    if (tokens.dim() != 2 || tokens.numel() == 0 ||
        (tokens.scalar_type() != at::kInt && tokens.scalar_type() != at::kLong)) {
      fail("model: tokens must be [batch, tokens] int32 or int64, not empty, got ", tokens.sizes(), " ",
           tokens.scalar_type());
    }
    if (tokens.device() != device_) {
      fail("model: tokens are on ", tokens.device(), ", the model is on ", device_);
    }
    if (!tokens.is_cpu()) return;  // looking would cost a synchronization
    const auto low = tokens.min().item<int64_t>(), high = tokens.max().item<int64_t>();
    if (low < 0 || high >= config_.vocab_size) {
      fail("model: token ", low < 0 ? low : high, " is outside the vocabulary of ", config_.vocab_size);
    }
  }

  void check_targets(const ModelInput& input, const Tensor& targets) const {
    if (targets.sizes() != input.tokens.sizes() || targets.device() != device_) {
      fail("model: targets must be like tokens, ", input.tokens.sizes(), " on ", device_, ", got ",
           targets.sizes(), " on ", targets.device());
    }
  }

  /// x + attention(norm(x)), then x + mlp(norm(x)); x: [batch, tokens, width].
  Tensor layer(const LayerWeights& weights, const Tensor& x, const Sequence& sequence, LayerCache* cache,
               Tensor* statistics, AttentionTensors* tensors) const {
    const Tensor attended =
        x + attention_.forward(weights.attention, ops::rms_norm(x, weights.input_norm, config_.norm_eps),
                               sequence, cache, statistics, tensors);
    const Tensor input =
        ops::rms_norm(attended, weights.post_attention_norm, config_.norm_eps).to(compute_type_);
    const Tensor inner =
        ops::swiglu(at::linear(input, weights.gate_proj), at::linear(input, weights.up_proj));
    return attended + at::linear(inner, weights.down_proj);
  }

  /// What the output projection sees, in the compute type: [batch, tokens, width], or [1, batch * tokens,
  /// width] for packed documents.
  Tensor hidden_states(const ModelInput& input, AttentionStatistics* statistics) {
    check_tokens(input.tokens);
    const bool packed = !input.cu_seqlens.empty();
    const Tensor tokens = packed ? input.tokens.reshape({1, -1}) : input.tokens;
    const Sequence sequence =
        packed ? positions_.packed(ops::make_documents(input.cu_seqlens, tokens.size(1), device_))
               : positions_.stream(0, tokens.size(1));
    const bool count = statistics && config_.attention.function == AttentionFunction::entmax;
    std::vector<Tensor> counts(count ? weights_.layers.size() : 0);
    Tensor stream = at::embedding(weights_.embeddings, tokens);
    for (size_t i = 0; i < weights_.layers.size(); ++i) {
      AttentionTensors seen;
      stream = layer(cast_matrices(weights_.layers[i], compute_type_), stream, sequence, nullptr,
                     count ? &counts[i] : nullptr, input.observer ? &seen : nullptr);
      if (input.observer) input.observer->attended(static_cast<int64_t>(i), seen);
    }
    if (statistics) statistics->per_layer = count ? at::stack(counts) : Tensor();
    return ops::rms_norm(stream, weights_.norm, config_.norm_eps).to(compute_type_);
  }

  ModelConfig config_;
  at::Device device_;
  at::ScalarType compute_type_;
  DecoderWeights weights_;
  std::vector<Parameter> parameters_;
  Positions positions_;
  Attention attention_;
};

}  // namespace

std::unique_ptr<LanguageModel> make_decoder(const ModelConfig& config, const std::string& device,
                                            at::ScalarType compute_type, uint64_t seed) {
  if (config.vocab_size < 1)
    fail("model.vocab_size: must be set to the tokenizer's, got ", config.vocab_size);
  if (compute_type != at::kFloat && compute_type != at::kBFloat16 && compute_type != at::kDouble) {
    fail("model: compute type must be fp32, bf16 or fp64, got ", compute_type);
  }
  at::Device where(device);
  if (where.is_cuda() && !where.has_index()) where.set_index(0);
  return std::make_unique<Decoder>(config.resolved(), where, compute_type, seed);
}

}  // namespace asplash::model
