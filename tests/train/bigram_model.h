#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/data/loader.h"
#include "asplash/model/language_model.h"

namespace asplash::train {

/// The smallest model that learns: logits of the next token are a row of one matrix. Can be made to fail.
class BigramModel : public model::LanguageModel {
 public:
  explicit BigramModel(int64_t vocab_size) {
    config_.vocab_size = vocab_size;
    const at::Tensor table = at::arange(vocab_size * vocab_size, at::kFloat).view({vocab_size, vocab_size});
    parameters_ = {{"model.embed_tokens.weight", table.sin().set_requires_grad(true)}};
  }
  const model::ModelConfig& config() const override { return config_; }
  const std::vector<model::Parameter>& parameters() const override { return parameters_; }
  at::Tensor logits(const model::ModelInput&) override { fail("not used"); }

  at::Tensor loss_sum(const model::ModelInput& input, const at::Tensor& targets,
                      model::AttentionStatistics*) override {
    const at::Tensor rows = parameters_[0].value.index({input.tokens.reshape({-1}).to(at::kLong)});
    const at::Tensor loss = at::cross_entropy_loss(rows, targets.reshape({-1}).to(at::kLong), {},
                                                   /*reduction=sum*/ 2, data::kIgnoredTarget);
    if (!infinite_gradient) return loss + poison;
    const at::Tensor sum = parameters_[0].value.sum();
    return loss + (sum - sum.detach()).sqrt();  // adds 0, with an infinite slope
  }

  at::Tensor token_losses(const model::ModelInput&, const at::Tensor&) override { fail("not used"); }
  std::unique_ptr<model::DecodeState> new_decode_state(int64_t, int64_t) override { fail("not used"); }
  at::Tensor decode(const at::Tensor&, model::DecodeState&) override { fail("not used"); }

  float poison = 0;                ///< added to the loss
  bool infinite_gradient = false;  ///< under a finite loss

 private:
  model::ModelConfig config_;
  std::vector<model::Parameter> parameters_;
};

}  // namespace asplash::train
