#include "asplash/optim/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "asplash/base/error.h"

namespace asplash::optim {
namespace {

using model::Parameter;

/// AdamW by the book, one parameter at a time, in fp64.
struct Reference {
  OptimConfig config;
  std::vector<double> value, first, second;
  bool decay = false;
  int64_t steps = 0;

  void step(double lr, const std::vector<double>& gradient, double clip_factor) {
    ++steps;
    const double correction1 = 1 - std::pow(config.beta1, steps),
                 correction2 = 1 - std::pow(config.beta2, steps);
    for (size_t i = 0; i < value.size(); ++i) {
      const double g = gradient[i] * clip_factor;
      first[i] = config.beta1 * first[i] + (1 - config.beta1) * g;
      second[i] = config.beta2 * second[i] + (1 - config.beta2) * g * g;
      if (decay) value[i] -= lr * config.weight_decay * value[i];
      value[i] -= lr * (first[i] / correction1) / (std::sqrt(second[i] / correction2) + config.eps);
    }
  }
};

std::vector<double> to_doubles(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kDouble).contiguous().view(-1);
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

std::vector<Parameter> make_parameters() {
  at::manual_seed(3);
  std::vector<Parameter> parameters = {
      {"model.embed_tokens.weight", at::randn({11, 6})},
      {"model.layers.0.self_attn.q_proj.weight", at::randn({6, 6})},
      {"model.layers.0.self_attn.temperature_beta.weight", at::randn({2, 6})},
      {"model.norm.weight", at::randn({6})}};
  for (Parameter& parameter : parameters) parameter.value.set_requires_grad(true);
  return parameters;
}

void set_gradients(const std::vector<Parameter>& parameters, double scale) {
  for (const Parameter& parameter : parameters) {
    parameter.value.mutable_grad() = at::randn(parameter.value.sizes()) * scale;
  }
}

double global_norm(const std::vector<Parameter>& parameters) {
  double sum = 0;
  for (const Parameter& parameter : parameters) {
    for (const double g : to_doubles(parameter.value.grad())) sum += g * g;
  }
  return std::sqrt(sum);
}

at::Tensor finite_loss() { return at::scalar_tensor(2.5); }

TEST(AdamW, FollowsTheReferenceWithDecayAndClipping) {
  OptimConfig config;
  config.clip_norm = 2.0;
  config.weight_decay = 0.3;
  const auto parameters = make_parameters();
  AdamW optimizer(parameters, config);
  std::vector<Reference> references;
  for (const Parameter& parameter : parameters) {
    const auto value = to_doubles(parameter.value);
    references.push_back({config, value, std::vector<double>(value.size()), std::vector<double>(value.size()),
                          optimizer.decays(parameter.name), 0});
  }
  for (int step = 0; step < 12; ++step) {
    const double lr = 1e-2 / (1 + step);
    set_gradients(parameters, step % 3 == 0 ? 0.01 : 3.0);  // some steps stay below the clipping norm
    const double norm = global_norm(parameters);
    for (size_t i = 0; i < parameters.size(); ++i) {
      references[i].step(lr, to_doubles(parameters[i].value.grad()), std::min(1.0, config.clip_norm / norm));
    }
    const StepResult result = optimizer.step(lr, finite_loss());
    EXPECT_NEAR(result.grad_norm.item<double>(), norm, 1e-5 * norm);
    EXPECT_EQ(result.skipped.item<float>(), 0);
    optimizer.zero_grad();
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto ours = to_doubles(parameters[i].value);
    for (size_t k = 0; k < ours.size(); ++k)
      EXPECT_NEAR(ours[k], references[i].value[k], 2e-6) << i << " " << k;
  }
}

TEST(AdamW, DecaysWhatTheConfigurationSays) {
  OptimConfig config;
  const auto parameters = make_parameters();
  const std::string embedding = parameters[0].name, matrix = parameters[1].name,
                    temperature = parameters[2].name, norm = parameters[3].name;
  const AdamW standard(parameters, config);
  EXPECT_TRUE(standard.decays(embedding));
  EXPECT_TRUE(standard.decays(matrix));
  EXPECT_FALSE(standard.decays(temperature));
  EXPECT_FALSE(standard.decays(norm));
  config.decay_embeddings = false;
  config.decay_norms = true;
  const AdamW other(parameters, config);
  EXPECT_FALSE(other.decays(embedding));
  EXPECT_TRUE(other.decays(norm));
  EXPECT_THROW(other.decays("nothing"), Error);
}

TEST(AdamW, DecayIsDecoupled) {
  OptimConfig config;
  config.weight_decay = 0.5;
  const auto parameters = make_parameters();
  AdamW optimizer(parameters, config);
  const at::Tensor before = parameters[1].value.detach().clone();
  for (const Parameter& parameter : parameters)
    parameter.value.mutable_grad() = at::zeros_like(parameter.value);
  optimizer.step(0.1, finite_loss());
  EXPECT_TRUE(at::allclose(parameters[1].value, before * (1 - 0.1 * 0.5), 1e-6, 0));
}

struct Snapshot {
  std::vector<at::Tensor> tensors;
  Snapshot(const std::vector<Parameter>& parameters, const AdamW& optimizer) {
    for (const Parameter& parameter : parameters) tensors.push_back(parameter.value.detach().clone());
    for (const auto& named : optimizer.state()) tensors.push_back(named.second.clone());
  }
  bool operator==(const Snapshot& other) const {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (!at::equal(tensors[i], other.tensors[i])) return false;
    }
    return true;
  }
};

TEST(AdamW, NonFiniteLossOrGradientChangesNothing) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(),
                  kInf = std::numeric_limits<float>::infinity();
  const auto parameters = make_parameters();
  AdamW optimizer(parameters, {});
  set_gradients(parameters, 1);
  optimizer.step(1e-2, finite_loss());
  const Snapshot before(parameters, optimizer);

  for (const float bad : {kNan, kInf, -kInf}) {
    set_gradients(parameters, 1);
    EXPECT_EQ(optimizer.step(1e-2, at::scalar_tensor(bad)).skipped.item<float>(), 1);
    EXPECT_TRUE(before == Snapshot(parameters, optimizer)) << "loss " << bad;

    for (const Parameter& parameter : parameters) {
      set_gradients(parameters, 1);
      parameter.value.grad().view(-1)[3] = bad;
      const StepResult result = optimizer.step(1e-2, finite_loss());
      EXPECT_EQ(result.skipped.item<float>(), 1);
      EXPECT_FALSE(std::isfinite(result.grad_norm.item<float>()));
      EXPECT_TRUE(before == Snapshot(parameters, optimizer)) << parameter.name << " " << bad;
    }
  }
  set_gradients(parameters, 1);
  EXPECT_EQ(optimizer.step(1e-2, finite_loss()).skipped.item<float>(), 0);
  EXPECT_FALSE(before == Snapshot(parameters, optimizer));
  EXPECT_EQ(optimizer.state().back().second.item<float>(), 2) << "skipped steps are not counted";
}

TEST(AdamW, WithoutClippingLargeGradientsPass) {
  OptimConfig config;
  config.clip_norm = 0;
  const auto parameters = make_parameters();
  AdamW optimizer(parameters, config);
  set_gradients(parameters, 100);
  const at::Tensor gradient = parameters[0].value.grad().clone();
  optimizer.step(1e-2, finite_loss());
  EXPECT_TRUE(at::equal(parameters[0].value.grad(), gradient));
}

TEST(AdamW, StateGoesOnWhereItWasSaved) {
  const auto parameters = make_parameters();
  AdamW optimizer(parameters, {});
  set_gradients(parameters, 1);
  optimizer.step(1e-2, finite_loss());

  std::vector<Parameter> copies;
  for (const Parameter& p : parameters)
    copies.push_back({p.name, p.value.detach().clone().set_requires_grad(true)});
  AdamW copy(copies, {});
  std::map<std::string, at::Tensor> state;
  for (const auto& [name, tensor] : optimizer.state()) state[name] = tensor.clone();
  copy.load_state(state);

  set_gradients(parameters, 1);
  for (size_t i = 0; i < copies.size(); ++i)
    copies[i].value.mutable_grad() = parameters[i].value.grad().clone();
  optimizer.step(1e-2, finite_loss());
  copy.step(1e-2, finite_loss());
  EXPECT_TRUE(Snapshot(parameters, optimizer) == Snapshot(copies, copy));
}

TEST(AdamW, RefusesAStateOfAnotherModel) {
  const auto parameters = make_parameters();
  AdamW optimizer(parameters, {});
  const auto named = optimizer.state();
  const std::map<std::string, at::Tensor> good(named.begin(), named.end());
  auto missing = good;
  missing.erase("model.norm.weight.exp_avg");
  auto surplus = good;
  surplus["other.exp_avg"] = at::zeros({2});
  auto shape = good;
  shape["model.norm.weight.exp_avg_sq"] = at::zeros({7});
  auto type = good;
  type["step"] = at::zeros({}, at::kDouble);
  for (const auto& bad : {missing, surplus, shape, type}) EXPECT_THROW(optimizer.load_state(bad), Error);
  EXPECT_NO_THROW(optimizer.load_state(good));
}

TEST(AdamW, ParametersWithoutGradientAreLeftAlone) {
  const auto parameters = make_parameters();
  AdamW optimizer(parameters, {});
  EXPECT_THROW(optimizer.step(1e-2, finite_loss()), Error);
  const at::Tensor before = parameters[1].value.detach().clone();
  parameters[0].value.mutable_grad() = at::ones_like(parameters[0].value);
  optimizer.step(1e-2, finite_loss());
  EXPECT_TRUE(at::equal(parameters[1].value, before));
}

}  // namespace
}  // namespace asplash::optim
