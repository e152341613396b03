#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/checkpoint/checkpoint.h"
#include "asplash/data/shard_writer.h"
#include "asplash/train/metrics.h"
#include "asplash/train/train.h"
#include "temporary_folder.h"

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
model: {width: 32, layers: 2, heads: 2, head_dim: 32, mlp_width: 64, positions: {kind: nape}, attention: {function: entmax}}
optim: {lr: 0.01, warmup_steps: 3}
)");
  }

  std::string config_file() const { return folder_ / "config.yaml"; }
  std::string run_folder() const { return folder_ / "run"; }
  const TemporaryFolder& folder() const { return folder_; }

  TrainOptions options(std::vector<std::string> overrides = {}) const {
    TrainOptions options;
    options.config_file = config_file();
    options.overrides = std::move(overrides);
    return options;
  }

  /// asplash-train with "key=value"s; asplash::Error comes through.
  int train(std::vector<std::string> overrides = {}, const std::string& resume = "auto") const {
    TrainOptions all = options(std::move(overrides));
    all.resume = resume;
    return run(all);
  }

  std::string checkpoint(int64_t step) const { return checkpoint::path_of_step(run_folder(), step); }
  std::string log() const { return read_file(run_folder() + "/train.log"); }

  /// Replaces data.train by one document of these tokens.
  void write_train(const std::vector<int32_t>& tokens, int64_t vocab_size = kSmallVocab) const {
    data::SplitWriter writer(folder_.path(), "train", tokenizer(vocab_size), 1 << 20);
    append_document(writer, tokens);
    writer.finish();
    writer.publish({});
  }

 private:
  static data::TokenizerInfo tokenizer(int64_t vocab_size) {
    data::TokenizerInfo info;
    info.vocab_size = vocab_size;
    return info;
  }

  static void append_document(data::SplitWriter& writer, const std::vector<int32_t>& tokens) {
    writer.begin_document();
    writer.append(tokens.data(), static_cast<int64_t>(tokens.size()));
    writer.end_document(static_cast<int64_t>(tokens.size()));
  }

  /// Documents that count up in steps of 1 to 3, modulo the vocabulary.
  void write_split(const std::string& split, int64_t documents, int64_t seed) const {
    data::SplitWriter writer(folder_.path(), split, tokenizer(kSmallVocab), 1 << 20);
    for (int64_t d = seed; d < seed + documents; ++d) {
      std::vector<int32_t> tokens;
      for (int64_t i = 0; i < 50 + d % 37; ++i) {
        tokens.push_back(static_cast<int32_t>((d * 17 + i * (1 + d % 3)) % kSmallVocab));
      }
      append_document(writer, tokens);
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

/// metrics.jsonl without what tells of the machine: equal for equal runs.
inline std::vector<std::string> reproducible_metrics(const std::string& run_folder) {
  std::vector<std::string> lines;
  for (nlohmann::json& line : metrics_of(run_folder)) {
    for (const std::string& key : measured_keys()) line.erase(key);
    lines.push_back(line.dump());
  }
  return lines;
}

/// The files of the two checkpoints hold the same bytes: weights, moments, counters, position.
inline void expect_same_checkpoints(const std::string& a, const std::string& b) {
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "trainer_state.json"}) {
    EXPECT_EQ(hash_file(a + "/" + file), hash_file(b + "/" + file)) << a << " and " << b << ": " << file;
  }
}

/// What `call` throws as an asplash::Error; "" if nothing.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace asplash::train
