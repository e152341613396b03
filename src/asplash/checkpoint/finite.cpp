#include "asplash/checkpoint/finite.h"

#include <ATen/ATen.h>

#include <cmath>

#include "asplash/base/text.h"

namespace asplash::checkpoint {
namespace {

struct Found {
  int64_t count = 0;
  int64_t first = -1;
};

template <class Number>
Found count_not_finite(const at::Tensor& tensor) {
  const auto* values = tensor.const_data_ptr<Number>();
  Found found;
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    if (std::isfinite(values[i])) continue;
    if (found.count++ == 0) found.first = i;
  }
  return found;
}

}  // namespace

std::string find_not_finite(const NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (tensor.scalar_type() != at::kFloat && tensor.scalar_type() != at::kDouble) continue;
    const at::Tensor host = tensor.detach().cpu().contiguous();
    const Found found =
        host.scalar_type() == at::kFloat ? count_not_finite<float>(host) : count_not_finite<double>(host);
    if (found.count == 0) continue;
    return str(name, " holds ", grouped(found.count), found.count == 1 ? " value of " : " values of ",
               grouped(host.numel()), " that ", found.count == 1 ? "is" : "are", " not finite, the first at ",
               found.first);
  }
  return "";
}

}  // namespace asplash::checkpoint
