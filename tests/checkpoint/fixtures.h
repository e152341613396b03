#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/checkpoint/checkpoint.h"
#include "asplash/model/language_model.h"
#include "temporary_folder.h"

namespace asplash::checkpoint {

/// A model that is nothing but its parameters.
class ParametersOnly : public model::LanguageModel {
 public:
  explicit ParametersOnly(std::vector<model::Parameter> parameters) : parameters_(std::move(parameters)) {}
  const model::ModelConfig& config() const override { return config_; }
  const std::vector<model::Parameter>& parameters() const override { return parameters_; }
  at::Tensor logits(const model::ModelInput&) override { fail("not used"); }
  at::Tensor loss_sum(const model::ModelInput&, const at::Tensor&, model::AttentionStatistics*) override {
    fail("not used");
  }
  at::Tensor token_losses(const model::ModelInput&, const at::Tensor&) override { fail("not used"); }
  std::unique_ptr<model::DecodeState> new_decode_state(int64_t, int64_t) override { fail("not used"); }
  at::Tensor decode(const at::Tensor&, model::DecodeState&) override { fail("not used"); }

 private:
  model::ModelConfig config_;
  std::vector<model::Parameter> parameters_;
};

inline std::vector<model::Parameter> some_parameters() {
  return {{"model.embed_tokens.weight", at::randn({8, 4}).set_requires_grad(true)},
          {"model.norm.weight", at::randn({4}).set_requires_grad(true)}};
}

/// Contents of a small checkpoint at `step`; needs a folder for the tokenizer.
inline Contents some_contents(const TemporaryFolder& folder, int64_t step) {
  const std::string tokenizer = folder / "source-tokenizer.model";
  write_file_atomically(tokenizer, "a tokenizer");
  Contents contents;
  for (const auto& [name, value] : some_parameters()) contents.model.emplace_back(name, value);
  contents.optimizer = {{"step", at::scalar_tensor(static_cast<float>(step))}};
  contents.state.step = step;
  contents.state.tokens = 5'000'000'000;
  contents.state.skipped_steps = 3;
  contents.state.position = {2, 77};
  contents.state.seed = 0xffff'ffff'ffff'fff0;
  contents.config_yaml = "train:\n  steps: 3\n";
  contents.config_json = "{}\n";
  contents.tokenizer_file = tokenizer;
  return contents;
}

}  // namespace asplash::checkpoint
