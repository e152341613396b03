#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "asplash/model/language_model.h"
#include "asplash/optim/optim_config.h"

namespace asplash::optim {

/// What a step did, left on the device so that training need not wait for it.
struct StepResult {
  at::Tensor grad_norm;  ///< fp32 scalar, before clipping
  at::Tensor skipped;    ///< fp32 scalar: 1 where loss or norm was not finite and nothing was changed, else 0
};

/// AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101) and clipping by the global
/// gradient norm, one fused kernel per group. Parameters are fp32 leaves, all on one device. No call but the
/// constructor, state() and load_state() synchronizes with the device.
class AdamW {
 public:
  /// Weight decay goes to matrices; to "...embed_tokens.weight" if decay_embeddings; to names that contain
  /// "norm" if decay_norms; never to other vectors and to the attention temperature. The tensors are shared
  /// with the model.
  AdamW(const std::vector<model::Parameter>& parameters, const OptimConfig& config);

  /// Frees the gradients: the next backward pass stores its first one without an addition.
  void zero_grad();

  /// One update with the gradients that backward left in the parameters (those without one are left alone).
  /// loss: scalar on the device. Where the loss or the gradient norm is not finite neither weights, moments
  /// nor the step counter change, decided on the device. Gradients are scaled in place by clipping.
  StepResult step(double lr, const at::Tensor& loss);

  /// True if weight decay is applied to the parameter (for tables and tests).
  bool decays(const std::string& name) const;

  /// "NAME.exp_avg", "NAME.exp_avg_sq" for each parameter, and "step" (fp32 scalar: updates done). Shares
  /// memory with the optimizer.
  std::vector<std::pair<std::string, at::Tensor>> state() const;

  /// Takes a state over. Every name, shape and dtype must agree, both ways; throws asplash::Error naming the
  /// tensor, and then has changed nothing.
  void load_state(const std::map<std::string, at::Tensor>& state);

 private:
  struct Slot {
    std::string name;
    at::Tensor value, exp_avg, exp_avg_sq;
    bool decay = false;
  };
  void update_group(bool decay, double lr, const at::Tensor& grad_scale, const at::Tensor& skipped);

  OptimConfig config_;
  std::vector<Slot> slots_;
  at::Tensor step_;  ///< fp32 scalar on the device, as the fused kernel wants it; shared by all parameters
};

}  // namespace asplash::optim
