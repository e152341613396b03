#include "ops/entmax_gpu.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <cmath>

namespace asplash::test {
namespace {

std::vector<c10::IValue> call_operator(const char* name, std::vector<c10::IValue> arguments) {
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(&arguments);
  return arguments;
}

c10::IValue on_device(const std::optional<at::Tensor>& tensor, const at::Device& device) {
  return tensor ? c10::IValue(tensor->to(device)) : c10::IValue();
}

}  // namespace

Inputs gpu_inputs(const Shape& s, at::ScalarType type, double spread) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(at::kCUDA);
  const auto normal = [&](int64_t heads, int64_t tokens, double size) {
    return at::randn({s.batch, tokens, heads, s.head_dim}, options).mul_(size).to(type).transpose(1, 2);
  };
  return {normal(s.heads, s.q_tokens, spread), normal(s.kv_heads, s.k_tokens, spread),
          normal(s.kv_heads, s.k_tokens, 1), normal(s.heads, s.q_tokens, 1)};
}

EntmaxCase default_case(const Inputs& in) {
  EntmaxCase call;
  call.scale = 1 / std::sqrt(static_cast<double>(in.query.size(3)));
  return call;
}

EntmaxResults run_operators(const Inputs& in, const EntmaxCase& call, const std::string& implementation) {
  const at::NoGradGuard no_grad;
  const at::Device device = in.query.device();
  std::optional<at::Tensor> slopes;
  if (!call.slopes.empty()) slopes = at::tensor(call.slopes, at::kDouble).to(at::kFloat);
  const std::vector<c10::IValue> options = {call.alpha,
                                            call.scale,
                                            call.causal,
                                            on_device(slopes, device),
                                            on_device(offsets(call.cu_seqlens_q), device),
                                            on_device(offsets(call.cu_seqlens_k), device),
                                            implementation};
  const bool kernels = device.is_cuda() && implementation == "auto" && in.query.scalar_type() != at::kDouble;
  std::vector<c10::IValue> arguments = {in.query, in.key, in.value};
  arguments.insert(arguments.end(), options.begin(), options.end());
  arguments.insert(arguments.end(), {/*with_statistics=*/true, /*for_backward=*/kernels});
  const auto forward = call_operator("asplash::entmax_attention_forward", arguments);
  arguments = {in.grad_out, in.query, in.key, in.value};
  arguments.insert(arguments.end(), forward.begin() + 1,
                   forward.begin() + 6);  // tau and what the kernels saved
  arguments.insert(arguments.end(), options.begin(), options.end());
  const auto backward = call_operator("asplash::entmax_attention_backward", arguments);
  EntmaxResults results;
  results.out = forward[0].toTensor();
  results.tau = forward[1].toTensor();
  if (kernels) results.tile_mask = forward[4].toTensor();
  results.statistics = forward[6].toTensor();
  results.grad_query = backward[0].toTensor();
  results.grad_key = backward[1].toTensor();
  results.grad_value = backward[2].toTensor();
  return results;
}

EntmaxTolerance kernel_tolerance(at::ScalarType type) {
  if (type == at::kFloat) return {1e-5, 4e-5, 4e-5, 2e-5, 2e-5, 1e-4};
  const double factor = type == at::kHalf ? 0.5 : 1;
  return {0.0024 * factor, 0.0046 * factor, 0.0032 * factor, 0.0024 * factor};
}

void expect_kernels_match(const Inputs& in, const EntmaxCase& call) {
  expect_kernels_match(in, call, kernel_tolerance(in.query.scalar_type()));
}

void expect_kernels_match(const Inputs& in, const EntmaxCase& call, const EntmaxTolerance& tolerance,
                          bool of_terms) {
  const EntmaxResults results = run_operators(in, call);
  const EntmaxErrors errors = compare_with_dense(in, call, results);
  // The bounds are for many rows; the rounding of a few scatters.
  const double scatter = 1 + 0.6 / std::sqrt(static_cast<double>(std::max<int64_t>(1, results.tau.numel())));
  EntmaxTolerance widened = tolerance;
  for (double* bound : {&widened.out, &widened.grad_query, &widened.grad_key, &widened.grad_value})
    *bound *= scatter;
  expect_within(errors, widened, of_terms);
  const at::Tensor host = results.statistics.cpu();
  const double* counts = host.const_data_ptr<double>();
  EXPECT_EQ(counts[1], errors.tiles);
  EXPECT_EQ(counts[3], errors.rows);
  // Pairs whose scores lie within rounding of the threshold may be counted or not.
  EXPECT_NEAR(counts[0], errors.zero_tiles, 1 + 0.01 * errors.tiles);
  EXPECT_NEAR(counts[2], errors.support, 2 + 0.03 * errors.support);
  EXPECT_EQ(counts[4] + counts[5] + counts[6] + counts[7], errors.rows);
}

void expect_same_bits(const EntmaxResults& a, const EntmaxResults& b) {
  EXPECT_TRUE(a.out.equal(b.out));
  EXPECT_TRUE(a.tau.equal(b.tau));
  EXPECT_TRUE(a.grad_query.equal(b.grad_query));
  EXPECT_TRUE(a.grad_key.equal(b.grad_key));
  EXPECT_TRUE(a.grad_value.equal(b.grad_value));
}

}  // namespace asplash::test
