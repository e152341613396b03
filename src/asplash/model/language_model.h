#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "asplash/model/model_config.h"

namespace asplash::model {

class AttentionObserver;

/// A trainable tensor: an fp32 leaf that requires grad, by its Llama name
/// ("model.layers.0.self_attn.q_proj.weight").
struct Parameter {
  std::string name;
  at::Tensor value;
};

struct ModelInput {
  at::Tensor tokens;  ///< [batch, tokens], int32 or int64, on the model's device
  /// Document boundaries over the flattened batch * tokens (data::Batch::cu_seqlens), or empty: attention and
  /// positions do not cross them.
  std::vector<int32_t> cu_seqlens;
  /// If not nullptr, is shown what each layer's attention gets and gives; the result is the same.
  AttentionObserver* observer = nullptr;
};

/// What sparse attention did in a forward pass; see ops::entmax_attention.
struct AttentionStatistics {
  /// [layers, ops::kEntmaxStatistics] fp64 (see there for what is counted). Undefined for softmax. On the
  /// model's device (reading it synchronizes).
  at::Tensor per_layer;
};

/// Keys and values of the tokens seen so far.
class DecodeState {
 public:
  virtual ~DecodeState() = default;
  virtual int64_t length() const = 0;    ///< tokens seen
  virtual int64_t capacity() const = 0;  ///< tokens it has room for
};

/// What trainer, evaluation and generation see of a model. Calls are asynchronous on the current CUDA stream.
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  virtual const ModelConfig& config() const = 0;
  /// In a fixed order; tied embeddings appear once. Values may be overwritten in place (loading).
  virtual const std::vector<Parameter>& parameters() const = 0;

  /// [batch, tokens, vocab] fp32.
  virtual at::Tensor logits(const ModelInput& input) = 0;

  /// Sum (not mean) over the valid targets of -log p(target), fp32 scalar; differentiable. Targets
  /// [batch, tokens] int32 or int64; data::kIgnoredTarget is not counted. Never materializes all logits.
  virtual at::Tensor loss_sum(const ModelInput& input, const at::Tensor& targets,
                              AttentionStatistics* statistics = nullptr) = 0;

  /// -log p(target) of each position, [batch, tokens] fp32, 0 where ignored. No gradient.
  virtual at::Tensor token_losses(const ModelInput& input, const at::Tensor& targets) = 0;

  virtual std::unique_ptr<DecodeState> new_decode_state(int64_t batch, int64_t capacity) = 0;
  /// Appends tokens [batch, n] to the state (n may be a whole prompt or 1) and returns the logits after the
  /// last one, [batch, vocab] fp32. No gradient. Throws asplash::Error beyond the state's capacity.
  virtual at::Tensor decode(const at::Tensor& tokens, DecodeState& state) = 0;
};

/// A decoder with random weights drawn on the CPU from `seed` (the same on every device).
/// compute_type: kFloat, or kBFloat16 for products in bf16 over the fp32 parameters; kDouble makes everything
/// fp64 (tests). config must be resolved() with vocab_size set.
std::unique_ptr<LanguageModel> make_decoder(const ModelConfig& config, const std::string& device,
                                            at::ScalarType compute_type, uint64_t seed);

}  // namespace asplash::model
