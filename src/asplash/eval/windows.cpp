#include "asplash/eval/windows.h"

#include <algorithm>

#include "asplash/base/error.h"

namespace asplash::eval {

EvaluationWindows::EvaluationWindows(int64_t targets, int64_t context, int64_t stride)
    : targets_(targets), context_(context), stride_(stride == 0 ? context : stride), size_(0) {
  if (context < 1) fail("context ", context, ": must be at least 1");
  if (context > targets)
    fail("context ", context, ": larger than the ", targets,
         " target tokens to evaluate on; give contexts of at most ", targets, " or more data");
  if (stride_ < 1 || stride_ > context)
    fail("stride ", stride, ": must be between 1 and the smallest context (", context,
         "), or 0 for no overlap");
  size_ = 1 + (targets_ - context_ + stride_ - 1) / stride_;
}

Window EvaluationWindows::operator[](int64_t index) const {
  Window window;
  window.begin = index * stride_;
  window.length = std::min(context_, targets_ - window.begin);
  window.first_scored = index == 0 ? 0 : context_ - stride_;
  return window;
}

int64_t EvaluationWindows::input_tokens() const { return (size_ - 1) * context_ + (*this)[size_ - 1].length; }

}  // namespace asplash::eval
