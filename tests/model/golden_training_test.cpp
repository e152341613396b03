// Ten AdamW steps against transformers and torch.optim.AdamW: fixtures by scripts/golden/make_llama.py.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "asplash/train/training_step.h"
#include "model/golden.h"

namespace asplash::test {
namespace {

constexpr int64_t kSteps = 10;

/// How a step's rows are given to training_step().
struct Way {
  const char* model;
  int64_t micro_batches;
  bool packed;  ///< documents by cu_seqlens; the fixture's were computed one by one
};

std::string name_of(const Way& way) {
  return str(way.model, way.packed ? "_packed" : "_stream", "_in_", way.micro_batches);
}
void PrintTo(const Way& way, std::ostream* out) { *out << name_of(way); }

std::shared_ptr<int32_t> copy_of(const at::Tensor& tensor) {
  const at::Tensor values = tensor.contiguous();
  const auto count = static_cast<size_t>(values.numel());
  std::shared_ptr<int32_t> copy(new int32_t[count], std::default_delete<int32_t[]>());
  std::copy_n(values.const_data_ptr<int32_t>(), count, copy.get());
  return copy;
}

/// Rows [first, first + rows) of a step; boundaries are those of the whole step, flattened.
data::Batch batch_of(const at::Tensor& tokens, const at::Tensor& targets, int64_t first, int64_t rows,
                     const std::vector<int32_t>& boundaries) {
  data::Batch batch;
  batch.rows = rows;
  batch.context = tokens.size(1);
  batch.tokens = copy_of(tokens.narrow(0, first, rows));
  batch.targets = copy_of(targets.narrow(0, first, rows));
  const auto begin = static_cast<int32_t>(first * batch.context);
  const auto end = static_cast<int32_t>((first + rows) * batch.context);
  for (const int32_t boundary : boundaries) {
    if (boundary < begin || boundary > end) continue;
    batch.cu_seqlens.push_back(boundary - begin);
    // The last token of a document predicts nothing.
    if (boundary > begin) batch.targets.get()[boundary - begin - 1] = data::kIgnoredTarget;
  }
  const int32_t* wanted = batch.targets.get();
  batch.valid_targets = std::count_if(wanted, wanted + rows * batch.context,
                                      [](int32_t t) { return t != data::kIgnoredTarget; });
  return batch;
}

optim::OptimConfig optimizer_config(const nlohmann::json& json) {
  optim::OptimConfig config;
  config.beta1 = json.at("beta1");
  config.beta2 = json.at("beta2");
  config.eps = json.at("eps");
  config.weight_decay = json.at("weight_decay");
  config.clip_norm = json.at("clip_norm");
  return config;
}

class GoldenTraining : public testing::TestWithParam<Way> {};

TEST_P(GoldenTraining, TenAdamWStepsEqualHuggingFace) {
  const Way& way = GetParam();
  const GoldenModel golden(way.model);
  const auto decoder = golden.decoder();
  const nlohmann::json& settings = golden.json().at("optimizer");
  optim::AdamW optimizer(decoder->parameters(), optimizer_config(settings));
  const std::string kind = way.packed ? "train/packed_" : "train/stream_";
  const auto losses = golden.at(kind + "losses").accessor<double, 1>();
  const auto norms = golden.at(kind + "norms").accessor<double, 1>();
  const at::Tensor ends = golden.at("train/cu_seqlens");
  std::vector<int32_t> boundaries;
  if (way.packed)
    boundaries.assign(ends.const_data_ptr<int32_t>(), ends.const_data_ptr<int32_t>() + ends.numel());
  ops::DeviceInfo cpu;
  cpu.name = "cpu";

  ASSERT_EQ(losses.size(0), kSteps);
  double worst = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    const at::Tensor tokens = golden.at("train/tokens")[step], targets = golden.at("train/targets")[step];
    const int64_t rows = tokens.size(0) / way.micro_batches;
    std::vector<data::Batch> batches;
    for (int64_t first = 0; first < tokens.size(0); first += rows)
      batches.push_back(batch_of(tokens, targets, first, rows, boundaries));
    const train::StepNumbers numbers =
        train::read_numbers(
            {train::training_step(*decoder, optimizer, batches, cpu, settings.at("lr"), false)})
            .at(0);
    EXPECT_NEAR(numbers.loss / losses[step], 1, 1e-5) << "step " << step + 1;
    EXPECT_NEAR(numbers.grad_norm / norms[step], 1, 1e-5) << "step " << step + 1;
    worst = std::max(worst, std::abs(numbers.loss / losses[step] - 1));
  }
  RecordProperty("largest_relative_difference_of_losses", str(worst));
}

std::vector<Way> all_ways() {
  std::vector<Way> ways;
  for (const char* model : {"llama", "llama_tied", "qwen3"}) {
    for (const bool packed : {false, true}) {
      for (const int64_t micro_batches : {1, 4}) ways.push_back({model, micro_batches, packed});
    }
  }
  return ways;
}

INSTANTIATE_TEST_SUITE_P(Ways, GoldenTraining, testing::ValuesIn(all_ways()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace asplash::test
