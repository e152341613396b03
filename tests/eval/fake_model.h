#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/data/loader.h"
#include "asplash/model/language_model.h"

namespace asplash::eval {

/// What a model knows at a position: the tokens it has read up to there, the last one included.
using History = std::vector<int32_t>;

/// A model whose probabilities are written down: logits(history) gives the log-probabilities of the next
/// token.
class FakeModel : public model::LanguageModel {
 public:
  using Rule = std::function<std::vector<float>(const History&)>;

  FakeModel(int64_t vocab_size, Rule rule) : rule_(std::move(rule)) { config_.vocab_size = vocab_size; }

  const model::ModelConfig& config() const override { return config_; }
  const std::vector<model::Parameter>& parameters() const override { return parameters_; }
  at::Tensor logits(const model::ModelInput&) override { fail("not used"); }
  at::Tensor loss_sum(const model::ModelInput&, const at::Tensor&, model::AttentionStatistics*) override {
    fail("not used");
  }

  at::Tensor token_losses(const model::ModelInput& input, const at::Tensor& targets) override {
    ++forward_calls;
    longest_batch = std::max(longest_batch, input.tokens.numel());
    at::Tensor losses = at::zeros(targets.sizes(), at::kFloat);
    const auto in = input.tokens.accessor<int32_t, 2>();
    const auto wanted = targets.accessor<int32_t, 2>();
    auto out = losses.accessor<float, 2>();
    for (int64_t row = 0; row < targets.size(0); ++row) {
      History history;
      for (int64_t p = 0; p < targets.size(1); ++p) {
        const int64_t place = row * targets.size(1) + p;
        if (std::binary_search(input.cu_seqlens.begin(), input.cu_seqlens.end(), place)) history.clear();
        history.push_back(in[row][p]);
        if (wanted[row][p] == data::kIgnoredTarget) continue;
        out[row][p] = -rule_(history)[static_cast<size_t>(wanted[row][p])];
      }
    }
    return losses;
  }

  std::unique_ptr<model::DecodeState> new_decode_state(int64_t, int64_t capacity) override {
    return std::make_unique<State>(capacity);
  }

  at::Tensor decode(const at::Tensor& tokens, model::DecodeState& state) override {
    auto& history = static_cast<State&>(state).history;
    for (int64_t i = 0; i < tokens.size(1); ++i) history.push_back(tokens[0][i].item<int32_t>());
    if (state.length() > state.capacity()) fail("beyond the capacity");
    std::vector<float> values = rule_(history);
    return at::tensor(values).unsqueeze(0);
  }

  int forward_calls = 0;
  int64_t longest_batch = 0;

 private:
  struct State : model::DecodeState {
    explicit State(int64_t room) : capacity_(room) {}
    int64_t length() const override { return static_cast<int64_t>(history.size()); }
    int64_t capacity() const override { return capacity_; }
    History history;
    int64_t capacity_;
  };

  Rule rule_;
  model::ModelConfig config_;
  std::vector<model::Parameter> parameters_;
};

}  // namespace asplash::eval
