#pragma once

#include <string>
#include <vector>

/// The files of a checkpoint folder beside its manifest; see checkpoint.h.
namespace asplash::checkpoint {

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kConfigYamlFile = "config.yaml";
constexpr const char* kConfigJsonFile = "config.json";
constexpr const char* kTokenizerFile = "tokenizer.model";

/// A folder STEP is called so while it is written or removed, and one so for the instant in which another
/// takes its place on file systems that cannot exchange two folders.
constexpr const char* kUnfinishedSuffix = ".tmp";
constexpr const char* kReplacedSuffix = ".replaced.tmp";

/// In every checkpoint; kTokenizerFile where the data has a tokenizer.
inline std::vector<std::string> required_files() {
  return {kModelFile, kOptimizerFile, kStateFile, kConfigYamlFile, kConfigJsonFile};
}

}  // namespace asplash::checkpoint
