// Numerical faults: NaN in a weight, Inf in a gradient, a loss spike, a token id out of range.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>

#include "asplash/base/log.h"
#include "asplash/checkpoint/finite.h"
#include "asplash/data/manifest.h"
#include "asplash/data/shard_format.h"
#include "asplash/train/trainer.h"
#include "data/shard_seal.h"
#include "train/small_run.h"

namespace asplash::train {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// A decoder that something happens to. One call of loss_sum a step.
class FaultyModel : public model::LanguageModel {
 public:
  using Before = std::function<void(int64_t step, const std::vector<model::Parameter>&)>;
  using After = std::function<at::Tensor(int64_t step, const at::Tensor& loss, const at::Tensor& weight)>;

  explicit FaultyModel(std::unique_ptr<model::LanguageModel> model) : model_(std::move(model)) {}
  const model::ModelConfig& config() const override { return model_->config(); }
  const std::vector<model::Parameter>& parameters() const override { return model_->parameters(); }
  at::Tensor logits(const model::ModelInput& input) override { return model_->logits(input); }
  at::Tensor loss_sum(const model::ModelInput& input, const at::Tensor& targets,
                      model::AttentionStatistics* statistics) override {
    ++step_;
    if (before) before(step_, parameters());
    const at::Tensor loss = model_->loss_sum(input, targets, statistics);
    return after ? after(step_, loss, parameters().front().value) : loss;
  }
  at::Tensor token_losses(const model::ModelInput& input, const at::Tensor& targets) override {
    return model_->token_losses(input, targets);
  }
  std::unique_ptr<model::DecodeState> new_decode_state(int64_t batch, int64_t capacity) override {
    return model_->new_decode_state(batch, capacity);
  }
  at::Tensor decode(const at::Tensor& tokens, model::DecodeState& state) override {
    return model_->decode(tokens, state);
  }

  Before before;
  After after;

 private:
  std::unique_ptr<model::LanguageModel> model_;
  int64_t step_ = 0;
};

/// Adds nothing to the loss and an infinite slope to the gradient.
at::Tensor with_infinite_gradient(const at::Tensor& loss, const at::Tensor& weight) {
  const at::Tensor sum = weight.sum();
  return loss + (sum - sum.detach()).sqrt();
}

class Faults : public ::testing::Test {
 protected:
  /// 20 steps of one micro-batch; a checkpoint after every fifth. Returns the error, "" for none.
  std::string train(const FaultyModel::Before& before, const FaultyModel::After& after,
                    std::vector<std::string> overrides = {}, const checkpoint::TrainerState& state = {}) {
    overrides.insert(overrides.end(), {"train.micro_batch=16", "data.validation=\"\"",
                                       "train.checkpoint_every=5", "train.device=" + device_});
    const TrainOptions options = small_.options(overrides);
    const auto setup = prepare(options, load_config(options));
    std::filesystem::create_directories(small_.run_folder());
    log::Options logging;
    logging.file = small_.run_folder() + "/train.log";
    log::init(logging);
    FaultyModel model(model::make_decoder(setup.config.model, setup.device.name, at::kFloat, 1));
    model.before = before;
    model.after = after;
    optim::AdamW optimizer(model.parameters(), setup.config.optim);
    Trainer trainer(setup, resolved_config_text(setup), model, optimizer, state);
    const std::string error = error_of([&] { trainer.run(); });
    weights_.clear();
    for (const auto& [name, value] : model.parameters()) weights_.emplace_back(name, value.detach().clone());
    return error;
  }

  void expect_only_finite_checkpoints() const {
    const auto found = checkpoint::list(small_.run_folder());
    EXPECT_FALSE(found.complete.empty());
    EXPECT_TRUE(found.passed_over.empty());
    for (const std::string& path : found.complete) {
      for (const char* file : {"/model.safetensors", "/optimizer.safetensors"}) {
        const auto tensors = checkpoint::read_safetensors(path + file).tensors;
        EXPECT_EQ(checkpoint::find_not_finite({tensors.begin(), tensors.end()}), "") << path << file;
      }
    }
  }

  bool logged(const std::string& text) const { return small_.log().find(text) != std::string::npos; }

  void expect_nan_in_a_weight_to_end_training();
  void expect_infinite_gradient_to_be_skipped();

  SmallRun small_;
  std::string device_ = "cpu";
  checkpoint::NamedTensors weights_;
};

class FaultsGpu : public Faults {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
    device_ = "cuda";
  }
};

void Faults::expect_nan_in_a_weight_to_end_training() {
  const std::string error = train(
      [](int64_t step, const auto& parameters) {
        if (step != 8) return;
        const at::NoGradGuard no_grad;
        parameters.at(3).value.view({-1})[5].fill_(kNan);
      },
      {});
  const std::string name = weights_.at(3).first;
  EXPECT_NE(error.find("training stopped at step 8 (data from epoch 1, sample 32)"), std::string::npos)
      << error;
  EXPECT_NE(error.find("the weight " + name + " holds 1 value of "), std::string::npos) << error;
  EXPECT_NE(error.find("the first at 5"), std::string::npos) << error;
  expect_only_finite_checkpoints();
  EXPECT_EQ(checkpoint::Reader(small_.run_folder()).state().step, 5);
}

TEST_F(Faults, ANanInAWeightEndsTrainingNamingWeightStepAndData) { expect_nan_in_a_weight_to_end_training(); }
TEST_F(FaultsGpu, ANanInAWeightEndsTrainingNamingWeightStepAndData) {
  expect_nan_in_a_weight_to_end_training();
}

TEST_F(Faults, ANanThatTheLossDoesNotShowIsNotSaved) {
  // The embedding of a token that does not occur, of a model whose output matrix is another one.
  const std::string error = train(
      [](int64_t step, const auto& parameters) {
        if (step != 8) return;
        const at::NoGradGuard no_grad;
        for (const auto& [name, value] : parameters) {
          if (name == "model.embed_tokens.weight") value[kSmallVocab].fill_(kNan);
        }
      },
      {}, {"model.vocab_size=72", "model.tied_embeddings=false"});
  EXPECT_NE(error.find("training stopped: no checkpoint is written at " + small_.checkpoint(10)),
            std::string::npos)
      << error;
  EXPECT_NE(error.find("model.embed_tokens.weight holds 32 values"), std::string::npos) << error;
  EXPECT_NE(error.find("the newest whole checkpoint is " + small_.checkpoint(5)), std::string::npos) << error;
  expect_only_finite_checkpoints();
}

void Faults::expect_infinite_gradient_to_be_skipped() {
  const std::string error = train({}, [](int64_t step, const at::Tensor& loss, const at::Tensor& weight) {
    return step == 8 ? with_infinite_gradient(loss, weight) : loss;
  });
  EXPECT_EQ(error, "");
  EXPECT_EQ(checkpoint::find_not_finite(weights_), "");
  EXPECT_TRUE(logged("warning skipped step 8 (data from epoch 1, sample 32): loss ")) << small_.log();
  EXPECT_TRUE(logged("gradient norm inf; weights and moments stay as they are (1 in a row, 1 in all)"));
  const auto lines = metrics_of(small_.run_folder());
  ASSERT_EQ(lines.size(), 20u) << small_.log();
  for (const auto& line : lines) EXPECT_EQ(line["skipped"], line["step"] == 8) << line;
  EXPECT_TRUE(lines[7]["loss"].is_number());
  EXPECT_TRUE(lines[7]["grad_norm"].is_null());
  expect_only_finite_checkpoints();
  EXPECT_EQ(checkpoint::Reader(small_.run_folder()).state().skipped_steps, 1);
}

TEST_F(Faults, AnInfiniteGradientIsSkippedAndReported) { expect_infinite_gradient_to_be_skipped(); }
TEST_F(FaultsGpu, AnInfiniteGradientIsSkippedAndReported) { expect_infinite_gradient_to_be_skipped(); }

TEST_F(Faults, InfiniteGradientsInARowStopTrainingAlsoAcrossACheckpoint) {
  const auto from_9 = [](int64_t step, const at::Tensor& loss, const at::Tensor& weight) {
    return step >= 9 ? with_infinite_gradient(loss, weight) : loss;
  };
  const std::string error = train({}, from_9, {"train.max_skipped_in_a_row=4"});
  EXPECT_NE(error.find("training stopped: 4 steps in a row without a finite loss and gradient, the last step "
                       "12 (data from epoch 2, sample 16)"),
            std::string::npos)
      << error;
  EXPECT_EQ(checkpoint::find_not_finite(weights_), "");
  expect_only_finite_checkpoints();
  const auto state = checkpoint::Reader(small_.run_folder()).state();
  EXPECT_EQ(state.step, 10);
  EXPECT_EQ(state.skipped_in_a_row, 2);
  const auto always = [](int64_t, const at::Tensor& loss, const at::Tensor& weight) {
    return with_infinite_gradient(loss, weight);
  };
  const std::string again = train({}, always, {"train.max_skipped_in_a_row=4"}, state);
  EXPECT_NE(again.find("4 steps in a row without a finite loss and gradient, the last step 12"),
            std::string::npos)
      << again;
}

TEST_F(Faults, ALossSpikeIsReportedAndTrainingGoesOn) {
  // Counting up, but for the tokens of step 120, which are noise.
  constexpr int64_t kStepTokens = 512, kSteps = 130, kBad = 120;
  std::vector<int32_t> tokens;
  uint32_t noise = 1;
  for (int64_t i = 0; i <= kSteps * kStepTokens; ++i) {
    noise = noise * 1664525 + 1013904223;
    const bool bad = i / kStepTokens == kBad - 1;
    tokens.push_back(static_cast<int32_t>(bad ? noise >> 26 : i % kSmallVocab));
  }
  small_.write_train(tokens);
  const std::string steps = str("train.steps=", kSteps);
  EXPECT_EQ(train({}, {}, {"data.shuffle=false", steps, "train.log_every=10"}), "");
  for (const auto& line : metrics_of(small_.run_folder())) {
    EXPECT_EQ(line["spike"], line["step"] == kBad) << line;
  }
  const std::string where = str("warning loss spike at step ", kBad, " (data from epoch 0, sample ",
                                (kBad - 1) * kStepTokens / 32, "): loss ");
  EXPECT_TRUE(logged(where)) << where << "\n" << small_.log();
  EXPECT_EQ(checkpoint::find_not_finite(weights_), "");
  expect_only_finite_checkpoints();
}

/// Gives the only shard of SmallRun's training data a smaller vocabulary than its tokens need; all checksums
/// are right again.
void shrink_vocabulary(const SmallRun& small, uint64_t vocab_size) {
  const std::string path = small.folder() / "train/shard-00000.tokens";
  std::string shard = read_file(path);
  data::ShardHeader header;
  std::memcpy(&header, shard.data(), sizeof header);
  const uint64_t old_vocab_size = header.vocab_size;
  const std::string old_sum = data::checksum_text(header.checksum);
  header.vocab_size = vocab_size;
  data::seal_shard(shard, header);
  write_file_atomically(path, shard);

  std::string manifest = read_file(small.folder() / "train/manifest.json");
  const auto replace = [&](const std::string& from, const std::string& to) {
    const size_t at = manifest.find(from);
    ASSERT_NE(at, std::string::npos) << from << " in " << manifest;
    manifest.replace(at, from.size(), to);
  };
  replace(old_sum, data::checksum_text(header.checksum));
  replace(str("\"vocab_size\": ", old_vocab_size), str("\"vocab_size\": ", vocab_size));
  manifest = manifest.substr(0, manifest.rfind(",\n  \"xxh3_128_of_the_above\"")) + "\n}\n";
  write_file_atomically(small.folder() / "train/manifest.json", data::seal_manifest(manifest));
}

/// Runs into a token id of 1000 with a vocabulary of 64 and returns what training said.
std::string error_of_bad_token(const SmallRun& small, const std::string& device) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 650'000; ++i) tokens.push_back(i % static_cast<int32_t>(kSmallVocab));
  tokens.at(600'000) = 1000;  // in the second block of 524,288 tokens, which step 32 reads first
  small.write_train(tokens, 2048);
  shrink_vocabulary(small, kSmallVocab);
  return error_of([&] {
    small.train({"train.device=" + device, "data.shuffle=false", "train.steps=100", "data.context=64",
                 "train.tokens_per_step=16384", "train.micro_batch=256", "model.layers=1", "model.width=16",
                 "model.attention.function=softmax"});
  });
}

void expect_to_name_shard_token_and_step(const std::string& error) {
  EXPECT_EQ(error.find("training stopped at step 32 (data from epoch 0, sample 7936): "), 0u) << error;
  EXPECT_NE(error.find("train/shard-00000.tokens"), std::string::npos) << error;
  EXPECT_NE(error.find("token 600000 has id 1000, not below the vocabulary's size 64"), std::string::npos)
      << error;
}

TEST_F(Faults, ATokenIdOutOfRangeIsNamedBeforeItReachesTheModel) {
  expect_to_name_shard_token_and_step(error_of_bad_token(small_, "cpu"));
}

TEST_F(FaultsGpu, ATokenIdOutOfRangeIsNamedBeforeItReachesTheDevice) {
  expect_to_name_shard_token_and_step(error_of_bad_token(small_, "cuda"));
}

}  // namespace
}  // namespace asplash::train
