#include "asplash/ops/documents.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "asplash/base/error.h"

namespace asplash::ops {

Documents make_documents(const std::vector<int32_t>& boundaries, int64_t tokens, const at::Device& device) {
  if (boundaries.size() < 2 || boundaries.front() != 0 || boundaries.back() != tokens) {
    fail("cu_seqlens: must start with 0 and end with batch * tokens = ", tokens, ", got ",
         boundaries.empty()
             ? std::string("none")
             : str(boundaries.front(), " ... ", boundaries.back(), " (", boundaries.size(), " values)"));
  }
  Documents documents;
  documents.boundaries = boundaries;
  at::Tensor positions = at::empty({tokens}, at::kLong);
  int64_t* position = positions.data_ptr<int64_t>();
  for (size_t d = 0; d + 1 < boundaries.size(); ++d) {
    const int64_t length = static_cast<int64_t>(boundaries[d + 1]) - boundaries[d];
    if (length < 0) {
      fail("cu_seqlens: must not decrease, got ", boundaries[d], " then ", boundaries[d + 1], " at index ",
           d + 1);
    }
    documents.longest = std::max(documents.longest, length);
    for (int64_t i = 0; i < length; ++i) *position++ = i;
  }
  documents.positions = positions.to(device);
  documents.cu_seqlens = at::tensor(boundaries, at::kInt).to(device);
  return documents;
}

}  // namespace asplash::ops
