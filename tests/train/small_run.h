#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "asplash/base/files.h"
#include "asplash/data/shard_writer.h"
#include "asplash/train/train.h"
#include "checkpoint/temporary_folder.h"

namespace asplash::train {

constexpr int64_t kSmallVocab = 64;

/// A folder with packed made-up data (train, valid), learnable at a glance, and a configuration for a decoder
/// of a few thousand parameters.
class SmallRun {
 public:
  SmallRun() {
    write_split("train", 40, 0);
    write_split("valid", 8, 1000);
    write_file_atomically(config_file(), "train: {output: " + run_folder() +
                                             R"(, steps: 20, tokens_per_step: 512, micro_batch: 4,
  device: cpu, evaluate_tokens: 512, statistics_every: 5}
data: {train: )" + (folder_ / "train") +
                                             ", validation: " + (folder_ / "valid") + R"(, context: 32}
model: {width: 32, layers: 2, heads: 2, mlp_width: 64, positions: {kind: nape}, attention: {function: entmax}}
optim: {lr: 0.01, warmup_steps: 3}
)");
  }

  std::string config_file() const { return folder_ / "config.yaml"; }
  std::string run_folder() const { return folder_ / "run"; }
  const TemporaryFolder& folder() const { return folder_; }

  /// asplash-train with "key=value"s; asplash::Error comes through.
  int train(std::vector<std::string> overrides = {}, const std::string& resume = "auto") const {
    TrainOptions options;
    options.config_file = config_file();
    options.overrides = std::move(overrides);
    options.resume = resume;
    return run(options);
  }

 private:
  /// Documents that count up in steps of 1 to 3, modulo the vocabulary.
  void write_split(const std::string& split, int64_t documents, int64_t seed) const {
    data::TokenizerInfo tokenizer;
    tokenizer.vocab_size = kSmallVocab;
    data::SplitWriter writer(folder_.path(), split, tokenizer, 1 << 20);
    for (int64_t d = seed; d < seed + documents; ++d) {
      std::vector<int32_t> tokens;
      for (int64_t i = 0; i < 50 + d % 37; ++i) {
        tokens.push_back(static_cast<int32_t>((d * 17 + i * (1 + d % 3)) % kSmallVocab));
      }
      writer.begin_document();
      writer.append(tokens.data(), static_cast<int64_t>(tokens.size()));
      writer.end_document(static_cast<int64_t>(tokens.size()));
    }
    writer.finish();
    writer.publish({});
  }

  TemporaryFolder folder_;
};

inline std::vector<nlohmann::json> metrics_of(const std::string& run_folder) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(run_folder + "/metrics.jsonl");
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

}  // namespace asplash::train
