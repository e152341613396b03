#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace asplash::checkpoint {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Writes tensors (any device; copied to the host one by one) in the safetensors format: 8-byte little-endian
/// header length, JSON header, raw row-major data (https://github.com/huggingface/safetensors). Plain write,
/// no rename; fsynced. Throws asplash::Error naming the path.
void write_safetensors(const std::string& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata);

/// The same as one file that appears whole or not at all: written beside (PATH.tmp-PID), fsynced, renamed
/// over the path, the folder fsynced.
void write_safetensors_atomically(const std::string& path, const NamedTensors& tensors,
                                  const std::map<std::string, std::string>& metadata);

struct SafetensorsFile {
  std::map<std::string, at::Tensor> tensors;  ///< on the CPU, owning their memory
  std::map<std::string, std::string> metadata;
};

/// Reads a file whole. Every header field is checked against the file before use; throws asplash::Error
/// naming path, tensor and what is wrong.
SafetensorsFile read_safetensors(const std::string& path);

}  // namespace asplash::checkpoint
