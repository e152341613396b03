#include "asplash/ops/linear_cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "asplash/base/error.h"

namespace asplash::ops {
namespace {

void check_arguments(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
  if (hidden.dim() != 2 || weight.dim() != 2 || hidden.size(1) != weight.size(1)) {
    fail("linear_cross_entropy: hidden must be [rows, width] and weight [vocab, width], got ", hidden.sizes(),
         " and ", weight.sizes());
  }
  if (targets.dim() != 1 || targets.size(0) != hidden.size(0)) {
    fail("linear_cross_entropy: targets must be [", hidden.size(0), "], got ", targets.sizes());
  }
  if (targets.scalar_type() != at::kInt && targets.scalar_type() != at::kLong) {
    fail("linear_cross_entropy: targets must be int32 or int64, got ", targets.scalar_type());
  }
  if (targets.is_cuda() || targets.numel() == 0) return;
  const at::Tensor valid = targets.masked_fill(targets == kIgnoredTarget, 0);
  const int64_t low = valid.min().item<int64_t>();
  const int64_t high = valid.max().item<int64_t>();
  if (low < 0 || high >= weight.size(0)) {
    fail("linear_cross_entropy: target ", low < 0 ? low : high, " is outside the vocabulary of ",
         weight.size(0), " (", kIgnoredTarget, " marks an ignored one)");
  }
}

at::ScalarType loss_type(const at::Tensor& hidden) {
  return hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Targets of a chunk as three columns, [rows, 1].
struct ChunkTargets {
  explicit ChunkTargets(const at::Tensor& targets, int64_t vocab) {
    const at::Tensor column = targets.to(at::kLong).unsqueeze(1);
    counted = column.ne(kIgnoredTarget);
    outside = counted.logical_and(column.lt(0).logical_or(column.ge(vocab)));
    index = column.clamp(0, vocab - 1);
  }
  at::Tensor index;    ///< in range, also where ignored
  at::Tensor counted;  ///< bool
  at::Tensor outside;  ///< bool: counted, but no token of the vocabulary
};

/// Loss of each row, [rows, 1]; leaves softmax(logits) in `logits`.
at::Tensor losses_to_probabilities(at::Tensor& logits, const ChunkTargets& targets) {
  const at::Tensor maximum = logits.amax(1, /*keepdim=*/true);
  const at::Tensor target_logit = logits.gather(1, targets.index);
  const at::Tensor total = logits.sub_(maximum).exp_().sum(1, /*keepdim=*/true);
  logits.div_(total);
  at::Tensor losses = total.log().add_(maximum).sub_(target_logit);
  losses.masked_fill_(targets.counted.logical_not(), 0);
  return losses.masked_fill_(targets.outside, std::numeric_limits<double>::quiet_NaN());
}

at::Tensor chunk_logits(const at::Tensor& hidden, const at::Tensor& weight) {
  return at::mm(hidden, weight.t()).to(loss_type(hidden));
}

/// weight_grad += left^T right, in weight_grad's type where the device has such a product.
void accumulate_weight_grad(at::Tensor& weight_grad, const at::Tensor& left, const at::Tensor& right) {
  if (left.scalar_type() == weight_grad.scalar_type()) {
    weight_grad.addmm_(left.t(), right);
  } else if (left.is_cuda()) {
    weight_grad.add_(at::mm(left.t(), right, weight_grad.scalar_type()));
  } else {
    weight_grad.add_(at::mm(left.t(), right));
  }
}

class LinearCrossEntropySum : public torch::autograd::Function<LinearCrossEntropySum> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& targets, int64_t chunk_rows,
                            bool hidden_needs_grad, bool weight_needs_grad) {
    const at::Tensor cast_weight = weight.to(hidden.scalar_type());
    const int64_t rows = hidden.size(0);
    at::Tensor hidden_grad = hidden_needs_grad ? at::empty_like(hidden) : at::Tensor();
    at::Tensor weight_grad = weight_needs_grad ? at::zeros_like(weight) : at::Tensor();
    at::Tensor loss = at::zeros({}, hidden.options().dtype(at::kDouble));
    for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
      const int64_t count = std::min(chunk_rows, rows - begin);
      const at::Tensor chunk = hidden.narrow(0, begin, count);
      const ChunkTargets chunk_targets(targets.narrow(0, begin, count), weight.size(0));
      at::Tensor logits = chunk_logits(chunk, cast_weight);
      loss.add_(losses_to_probabilities(logits, chunk_targets).sum(at::kDouble));
      if (!hidden_needs_grad && !weight_needs_grad) continue;

      // d loss / d logits = softmax - one_hot(target)
      logits.scatter_(1, chunk_targets.index, logits.gather(1, chunk_targets.index).sub_(1));
      logits.masked_fill_(chunk_targets.counted.logical_not(), 0);
      const at::Tensor logits_grad = logits.to(hidden.scalar_type());
      if (hidden_needs_grad) hidden_grad.narrow(0, begin, count).copy_(at::mm(logits_grad, cast_weight));
      if (weight_needs_grad) accumulate_weight_grad(weight_grad, logits_grad, chunk);
    }
    ctx->save_for_backward({hidden_grad, weight_grad});
    return loss.to(loss_type(hidden));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const auto scaled = [&](const at::Tensor& grad) {
      return grad.defined() ? grad.mul(grad_outputs[0]) : at::Tensor();
    };
    return {scaled(saved[0]), scaled(saved[1]), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

int64_t chunk_size(const at::Tensor& hidden, const at::Tensor& weight, int64_t wanted) {
  return wanted > 0 ? wanted : loss_chunk_rows(weight.size(0), hidden.is_cuda());
}

}  // namespace

int64_t loss_chunk_rows(int64_t vocab, bool cuda) {
  const int64_t bytes = cuda ? int64_t{256} << 20 : int64_t{8} << 20;
  return std::max<int64_t>(16, bytes / (static_cast<int64_t>(sizeof(float)) * vocab));
}

at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                                    const at::Tensor& targets, int64_t chunk_rows) {
  check_arguments(hidden, weight, targets);
  const bool grad = at::GradMode::is_enabled();
  return LinearCrossEntropySum::apply(hidden, weight, targets, chunk_size(hidden, weight, chunk_rows),
                                      grad && hidden.requires_grad(), grad && weight.requires_grad());
}

at::Tensor linear_cross_entropy_rows(const at::Tensor& hidden, const at::Tensor& weight,
                                     const at::Tensor& targets, int64_t chunk_rows) {
  check_arguments(hidden, weight, targets);
  const at::NoGradGuard no_grad;
  const int64_t rows = hidden.size(0);
  const int64_t chunk = chunk_size(hidden, weight, chunk_rows);
  const at::Tensor cast_weight = weight.to(hidden.scalar_type());
  at::Tensor losses = at::empty({rows}, hidden.options().dtype(loss_type(hidden)));
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    const ChunkTargets chunk_targets(targets.narrow(0, begin, count), weight.size(0));
    at::Tensor logits = chunk_logits(hidden.narrow(0, begin, count), cast_weight);
    losses.narrow(0, begin, count).copy_(losses_to_probabilities(logits, chunk_targets).squeeze(1));
  }
  return losses;
}

}  // namespace asplash::ops
