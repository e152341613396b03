// train.initial_weights: a run that begins with the weights of another.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "train/small_run.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

std::map<std::string, at::Tensor> weights(const SmallRun& small, int64_t step) {
  return checkpoint::read_safetensors(small.checkpoint(step) + "/model.safetensors").tensors;
}

void expect_same(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, value] : a) EXPECT_TRUE(at::equal(value, b.at(name))) << name;
}

/// A run that changes no weight: its checkpoint is its beginning.
std::vector<std::string> still(const SmallRun& from) {
  return {"train.steps=1", "optim.lr=1e-30", "optim.warmup_steps=0",
          "train.initial_weights=" + from.run_folder()};
}

TEST(InitialWeights, AreTheBeginning) {
  const SmallRun first, second;
  first.train({"train.steps=5"});
  second.train(still(first));
  expect_same(weights(second, 1), weights(first, 5));
  EXPECT_NE(second.log().find("initial weights from " + first.checkpoint(5)), std::string::npos);
  EXPECT_EQ(second.log().find("differs from what the initial weights"), std::string::npos);
  EXPECT_EQ(checkpoint::Reader(second.run_folder()).state().tokens, 512) << "the rest begins anew";
}

TEST(InitialWeights, OfSoftmaxGoOnWithEntmaxAndSayWhatDiffers) {
  const SmallRun first, second;
  first.train({"train.steps=5", "model.attention.function=softmax"});
  second.train(still(first));
  expect_same(weights(second, 1), weights(first, 5));
  EXPECT_NE(second.log().find("differs from what the initial weights were trained with: "
                              "model.attention.function: softmax -> entmax"),
            std::string::npos)
      << second.log();
}

TEST(InitialWeights, CountAtTheBeginningAlone) {
  const SmallRun first, second;
  first.train({"train.steps=2"});
  std::vector<std::string> settings = {"train.steps=3", "train.initial_weights=" + first.run_folder()};
  second.train(settings);
  fs::remove_all(first.run_folder());
  settings[0] = "train.steps=4";
  EXPECT_EQ(second.train(settings), 0);
  EXPECT_EQ(checkpoint::Reader(second.run_folder()).state().step, 4);
}

TEST(InitialWeights, ThatDoNotFitCostNoRun) {
  const SmallRun first, second;
  first.train({"train.steps=2", "model.layers=1"});
  second.train({"train.steps=2"});
  const std::string before = second.log();
  TrainOptions options = second.options({"train.initial_weights=" + first.run_folder()});
  options.resume = "none";
  options.overwrite = true;
  EXPECT_NE(error_of([&] { run(options); }).find("model.layers.1."), std::string::npos);
  EXPECT_EQ(checkpoint::Reader(second.run_folder()).state().step, 2) << "--overwrite forgot it too early";
  EXPECT_EQ(second.log(), before);
}

}  // namespace
}  // namespace asplash::train
