#include "asplash/optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "asplash/base/error.h"

namespace asplash::optim {
namespace {

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

bool wants_decay(const model::Parameter& parameter, const OptimConfig& config) {
  if (config.weight_decay == 0) return false;
  if (contains(parameter.name, "norm")) return config.decay_norms;
  if (contains(parameter.name, "embed_tokens")) return config.decay_embeddings;
  return parameter.value.dim() >= 2 && !contains(parameter.name, "temperature");
}

}  // namespace

AdamW::AdamW(const std::vector<model::Parameter>& parameters, const OptimConfig& config) : config_(config) {
  if (parameters.empty()) fail("optimizer: the model has no parameters");
  for (const auto& [name, value] : parameters) {
    if (value.scalar_type() != at::kFloat && value.scalar_type() != at::kDouble) {
      fail("optimizer: parameter ", name, " is ", c10::toString(value.scalar_type()),
           ", must be fp32 or fp64");
    }
    slots_.push_back(
        {name, value, at::zeros_like(value), at::zeros_like(value), wants_decay({name, value}, config)});
  }
  step_ = at::zeros({}, parameters.front().value.options().dtype(at::kFloat).requires_grad(false));
}

void AdamW::zero_grad() {
  for (Slot& slot : slots_) slot.value.mutable_grad() = at::Tensor();
}

StepResult AdamW::step(double lr, const at::Tensor& loss) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  for (const Slot& slot : slots_) {
    if (slot.value.grad().defined()) gradients.push_back(slot.value.grad());
  }
  if (gradients.empty()) fail("optimizer: no parameter has a gradient; call backward before step");

  const at::Tensor grad_norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients)));
  const at::Tensor finite = at::isfinite(grad_norm).logical_and(at::isfinite(loss.detach()).all());
  const at::Tensor skipped = finite.logical_not().to(at::kFloat);
  // The fused kernel divides gradients by grad_scale: norm / clip_norm where the norm is above it.
  at::Tensor grad_scale;
  if (config_.clip_norm > 0) grad_scale = (grad_norm / config_.clip_norm).clamp_min(1.0).to(at::kFloat);

  step_.add_(1.0 - skipped);
  update_group(true, lr, grad_scale, skipped);
  update_group(false, lr, grad_scale, skipped);
  return {grad_norm.to(at::kFloat), skipped};
}

void AdamW::update_group(bool decay, double lr, const at::Tensor& grad_scale, const at::Tensor& skipped) {
  std::vector<at::Tensor> values, gradients, exp_avgs, exp_avg_sqs;
  for (const Slot& slot : slots_) {
    if (slot.decay != decay || !slot.value.grad().defined()) continue;
    values.push_back(slot.value);
    gradients.push_back(slot.value.grad());
    exp_avgs.push_back(slot.exp_avg);
    exp_avg_sqs.push_back(slot.exp_avg_sq);
  }
  if (values.empty()) return;
  const std::vector<at::Tensor> steps(values.size(), step_);
  at::_fused_adamw_(values, gradients, exp_avgs, exp_avg_sqs, {}, steps, lr, config_.beta1, config_.beta2,
                    decay ? config_.weight_decay : 0.0, config_.eps, /*amsgrad=*/false, /*maximize=*/false,
                    grad_scale.defined() ? std::optional<at::Tensor>(grad_scale) : std::nullopt, skipped);
}

bool AdamW::decays(const std::string& name) const {
  for (const Slot& slot : slots_) {
    if (slot.name == name) return slot.decay;
  }
  fail("optimizer: no parameter named ", name);
}

std::vector<std::pair<std::string, at::Tensor>> AdamW::state() const {
  std::vector<std::pair<std::string, at::Tensor>> state;
  for (const Slot& slot : slots_) {
    state.emplace_back(slot.name + ".exp_avg", slot.exp_avg);
    state.emplace_back(slot.name + ".exp_avg_sq", slot.exp_avg_sq);
  }
  state.emplace_back("step", step_);
  return state;
}

void AdamW::load_state(const std::map<std::string, at::Tensor>& state) {
  const auto mine = this->state();
  for (const auto& [name, tensor] : mine) {
    const auto found = state.find(name);
    if (found == state.end()) fail("optimizer state: tensor ", name, " is missing");
    const at::Tensor& loaded = found->second;
    if (loaded.sizes() != tensor.sizes() || loaded.scalar_type() != tensor.scalar_type()) {
      fail("optimizer state: tensor ", name, " is ", c10::toString(loaded.scalar_type()), " ",
           c10::str(loaded.sizes()), ", the model needs ", c10::toString(tensor.scalar_type()), " ",
           c10::str(tensor.sizes()));
    }
  }
  if (state.size() != mine.size()) {
    std::map<std::string, at::Tensor> unknown = state;
    for (const auto& named : mine) unknown.erase(named.first);
    fail("optimizer state: tensor ", unknown.begin()->first, " belongs to no parameter of this model");
  }
  for (const auto& [name, tensor] : mine) tensor.copy_(state.at(name));
}

}  // namespace asplash::optim
