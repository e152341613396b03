#include "asplash/ops/linear_cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

#include "asplash/base/error.h"

namespace asplash::ops {

using at::Tensor;

namespace {

void check_arguments(const Tensor& hidden, const Tensor& weight, const Tensor& targets) {
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
  const Tensor valid = targets.masked_fill(targets == kIgnoredTarget, 0);
  const int64_t low = valid.min().item<int64_t>();
  const int64_t high = valid.max().item<int64_t>();
  if (low < 0 || high >= weight.size(0)) {
    fail("linear_cross_entropy: target ", low < 0 ? low : high, " is outside the vocabulary of ",
         weight.size(0), " (", kIgnoredTarget, " marks an ignored one)");
  }
}

at::ScalarType loss_type(const Tensor& hidden) {
  return hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Targets of a chunk as three columns, [rows, 1].
struct ChunkTargets {
  explicit ChunkTargets(const Tensor& targets, int64_t vocab) {
    const Tensor column = targets.to(at::kLong).unsqueeze(1);
    ignored = column.eq(kIgnoredTarget);
    outside = column.lt(0).logical_or(column.ge(vocab)).logical_and(ignored.logical_not());
    index = column.clamp(0, vocab - 1);
  }
  Tensor index;    ///< in range, also where ignored
  Tensor ignored;  ///< bool
  Tensor outside;  ///< bool: not ignored, but no token of the vocabulary
};

/// left right in `type`, where the device can without rounding to the operands' type before.
Tensor product(const Tensor& left, const Tensor& right, at::ScalarType type) {
  if (left.scalar_type() != type && left.is_cuda()) return at::mm(left, right, type);
  return at::mm(left, right).to(type);
}

/// log softmax(hidden weight^T), [rows, vocab] in the loss's type.
Tensor log_probabilities(const Tensor& hidden, const Tensor& weight) {
  return at::_log_softmax(product(hidden, weight.t(), loss_type(hidden)), 1, /*half_to_float=*/false);
}

/// Loss of each row, [rows, 1].
Tensor row_losses(const Tensor& target_log_probability, const ChunkTargets& targets) {
  return target_log_probability.neg()
      .masked_fill_(targets.ignored, 0)
      .masked_fill_(targets.outside, std::numeric_limits<double>::quiet_NaN());
}

/// d loss / d logits = softmax - one_hot(target), in `type`; rows that are ignored are not cleared. The
/// difference at the target is formed before it is rounded: near 1, bf16 would lose it.
Tensor logits_gradient(Tensor& log_probabilities, const Tensor& target_log_probability,
                       const ChunkTargets& targets, at::ScalarType type) {
  const Tensor at_target = target_log_probability.expm1().to(type);
  Tensor gradient = log_probabilities;
  if (type == log_probabilities.scalar_type()) {
    gradient.exp_();
  } else {
    gradient = at::empty_like(log_probabilities, type);
    at::exp_out(gradient, log_probabilities);
  }
  return gradient.scatter_(1, targets.index, at_target);
}

/// weight_grad += left^T right
void accumulate_weight_grad(Tensor& weight_grad, const Tensor& left, const Tensor& right) {
  if (left.scalar_type() == weight_grad.scalar_type()) {
    weight_grad.addmm_(left.t(), right);
  } else {
    weight_grad.add_(product(left.t(), right, weight_grad.scalar_type()));
  }
}

class LinearCrossEntropySum : public torch::autograd::Function<LinearCrossEntropySum> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& hidden, const Tensor& weight,
                        const Tensor& targets, int64_t chunk_rows, bool hidden_needs_grad,
                        bool weight_needs_grad) {
    const Tensor cast_weight = weight.to(hidden.scalar_type());
    const int64_t rows = hidden.size(0);
    Tensor hidden_grad = hidden_needs_grad ? at::empty_like(hidden) : Tensor();
    Tensor weight_grad = weight_needs_grad ? at::zeros_like(weight) : Tensor();
    Tensor loss = at::zeros({}, hidden.options().dtype(at::kDouble));
    for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
      const int64_t count = std::min(chunk_rows, rows - begin);
      const Tensor chunk = hidden.narrow(0, begin, count);
      const ChunkTargets chunk_targets(targets.narrow(0, begin, count), weight.size(0));
      Tensor log_probability = log_probabilities(chunk, cast_weight);
      const Tensor at_target = log_probability.gather(1, chunk_targets.index);
      loss.add_(row_losses(at_target, chunk_targets).sum(at::kDouble));
      if (!hidden_needs_grad && !weight_needs_grad) continue;

      const Tensor logits_grad =
          logits_gradient(log_probability, at_target, chunk_targets, hidden.scalar_type());
      // Ignored rows are cleared where they are narrow: in hidden, not in the logits.
      if (hidden_needs_grad) {
        Tensor part = hidden_grad.narrow(0, begin, count);
        at::mm_out(part, logits_grad, cast_weight).masked_fill_(chunk_targets.ignored, 0);
      }
      if (weight_needs_grad) {
        accumulate_weight_grad(weight_grad, logits_grad, chunk.masked_fill(chunk_targets.ignored, 0));
      }
    }
    ctx->save_for_backward({hidden_grad, weight_grad});
    return loss.to(loss_type(hidden));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const auto scaled = [&](const Tensor& grad) {
      return grad.defined() ? grad.mul(grad_outputs[0]) : Tensor();
    };
    return {scaled(saved[0]), scaled(saved[1]), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

int64_t chunk_size(const Tensor& hidden, const Tensor& weight, int64_t wanted) {
  return wanted > 0 ? wanted : loss_chunk_rows(weight.size(0), hidden.is_cuda());
}

}  // namespace

int64_t loss_chunk_rows(int64_t vocab, bool cuda) {
  const int64_t bytes = cuda ? int64_t{256} << 20 : int64_t{8} << 20;
  return std::max<int64_t>(16, bytes / (static_cast<int64_t>(sizeof(float)) * vocab));
}

Tensor linear_cross_entropy_sum(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                                int64_t chunk_rows) {
  check_arguments(hidden, weight, targets);
  const bool grad = at::GradMode::is_enabled();
  return LinearCrossEntropySum::apply(hidden, weight, targets, chunk_size(hidden, weight, chunk_rows),
                                      grad && hidden.requires_grad(), grad && weight.requires_grad());
}

Tensor linear_cross_entropy_rows(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                                 int64_t chunk_rows) {
  check_arguments(hidden, weight, targets);
  const at::NoGradGuard no_grad;
  const int64_t rows = hidden.size(0);
  const int64_t chunk = chunk_size(hidden, weight, chunk_rows);
  const Tensor cast_weight = weight.to(hidden.scalar_type());
  Tensor losses = at::empty({rows}, hidden.options().dtype(loss_type(hidden)));
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    const ChunkTargets chunk_targets(targets.narrow(0, begin, count), weight.size(0));
    const Tensor at_target =
        log_probabilities(hidden.narrow(0, begin, count), cast_weight).gather(1, chunk_targets.index);
    losses.narrow(0, begin, count).copy_(row_losses(at_target, chunk_targets).squeeze(1));
  }
  return losses;
}

}  // namespace asplash::ops
