#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace asplash::ops {

/// Documents packed one after the other into a sequence of `tokens()` tokens; attention and positions do not
/// cross their boundaries.
struct Documents {
  std::vector<int32_t> boundaries;  ///< [documents + 1], 0 first, tokens last
  at::Tensor cu_seqlens;            ///< the same, int32, on the device
  at::Tensor positions;             ///< [tokens] int64, on the device: place within the document, from 0
  int64_t longest = 0;              ///< tokens of the longest document

  int64_t count() const { return static_cast<int64_t>(boundaries.size()) - 1; }
  int64_t tokens() const { return boundaries.back(); }
};

/// Throws asplash::Error if boundaries do not start at 0, decrease, or do not end at `tokens`.
Documents make_documents(const std::vector<int32_t>& boundaries, int64_t tokens, const at::Device& device);

}  // namespace asplash::ops
