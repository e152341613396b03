#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

/// The header of the safetensors format, apart from tensors. No libtorch here.
namespace asplash::checkpoint {

struct TensorEntry {
  std::string name;
  std::string dtype;  ///< safetensors' name: "F32", "BF16", ...
  std::vector<int64_t> shape;
  uint64_t begin = 0;  ///< bytes from the end of the header
  uint64_t end = 0;
};

struct Header {
  std::vector<TensorEntry> tensors;  ///< in the order of their data
  std::map<std::string, std::string> metadata;
  uint64_t bytes = 0;  ///< of length field and JSON together: where the data starts
};

/// Length field and JSON, padded with spaces so that the data starts at a multiple of 8.
std::string format_header(const Header& header);

/// Parses and checks the header of a file of `size` bytes at `data`: lengths, JSON, dtypes, shapes, offsets
/// that cover the rest of the file without gap or overlap. Throws asplash::Error naming path, tensor and what
/// is wrong.
Header parse_header(const std::string& path, const std::byte* data, size_t size);

}  // namespace asplash::checkpoint
