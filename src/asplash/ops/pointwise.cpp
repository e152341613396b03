#include "asplash/ops/pointwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace asplash::ops {
namespace {

/// Rotates by the angles whose cosine and sine are given; by their negatives for sign = -1.
at::Tensor rotated(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine, double sign) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor a = x.narrow(-1, 0, half);
  const at::Tensor b = x.narrow(-1, half, half);
  const at::Tensor c = cosine.unsqueeze(1);
  const at::Tensor s = sine.unsqueeze(1);
  at::Tensor out = at::empty_like(x, at::MemoryFormat::Contiguous);
  out.narrow(-1, 0, half).copy_((a * c).addcmul_(b, s, -sign));
  out.narrow(-1, half, half).copy_((b * c).addcmul_(a, s, sign));
  return out;
}

class Rotary : public torch::autograd::Function<Rotary> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            const at::Tensor& cosine, const at::Tensor& sine) {
    ctx->save_for_backward({cosine, sine});
    return rotated(x, cosine, sine, 1);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grad_outputs) {
    // A rotation's transpose is the rotation by the negative angle.
    const auto saved = ctx->get_saved_variables();
    return {rotated(grad_outputs[0], saved[0], saved[1], -1), at::Tensor(), at::Tensor()};
  }
};

class SwiGlu : public torch::autograd::Function<SwiGlu> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& gate,
                            const at::Tensor& up) {
    ctx->save_for_backward({gate, up});
    return at::silu(gate).mul_(up);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& gate = saved[0];
    const at::Tensor& up = saved[1];
    return {at::silu_backward(grad_outputs[0] * up, gate), at::silu(gate).mul_(grad_outputs[0])};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return at::rms_norm(x, weight.sizes(), weight, eps);
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) { return SwiGlu::apply(gate, up); }

at::Tensor rotary(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine) {
  return Rotary::apply(x, cosine, sine);
}

}  // namespace asplash::ops
