// What stands between asplash::entmax_attention and its CUDA kernels: layouts, which implementation serves a
// call, autograd, streams, graphs, memory, refusals.

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "asplash/ops/entmax_attention.h"
#include "ops/entmax_gpu.h"

namespace asplash::test {
namespace {

class EntmaxDispatchGpu : public GpuTest {};

/// out and the gradients of query, key, value by autograd.
std::vector<at::Tensor> differentiate(const Inputs& in, const ops::EntmaxOptions& options = {}) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : {in.query, in.key, in.value}) leaves.push_back(x.detach().requires_grad_(true));
  const at::Tensor out = ops::entmax_attention(leaves[0], leaves[1], leaves[2], options);
  std::vector<at::Tensor> results = torch::autograd::grad({out}, leaves, {in.grad_out});
  results.insert(results.begin(), out.detach());
  return results;
}

void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i])) << "result " << i;
}

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

TEST_F(EntmaxDispatchGpu, AutogradIsForwardThenBackward) {
  const Inputs in = gpu_inputs({2, 4, 2, 300, 300, 64}, at::kBFloat16);
  const EntmaxResults expected = run_operators(in, default_case(in));
  expect_equal(differentiate(in),
               {expected.out, expected.grad_query, expected.grad_key, expected.grad_value});
  EXPECT_TRUE(ops::entmax_attention(in.query, in.key, in.value).equal(expected.out)) << "without gradient";
}

TEST_F(EntmaxDispatchGpu, KeepsTheLayoutOfEachOperand) {
  const Inputs in = gpu_inputs({2, 4, 2, 130, 130, 64}, at::kBFloat16);
  const std::vector<at::Tensor> by_token = differentiate(in);
  EXPECT_TRUE(by_token[0].transpose(1, 2).is_contiguous()) << "what follows copies nothing";
  EXPECT_EQ(by_token[1].strides(), in.query.strides());
  EXPECT_EQ(by_token[2].strides(), in.key.strides());
  EXPECT_EQ(by_token[3].strides(), in.value.strides());
  const Inputs by_head{in.query.contiguous(), in.key.contiguous(), in.value.contiguous(),
                       in.grad_out.contiguous()};
  const std::vector<at::Tensor> results = differentiate(by_head);
  for (const at::Tensor& result : results) EXPECT_TRUE(result.is_contiguous());
  expect_equal(results, by_token);
}

TEST_F(EntmaxDispatchGpu, AcceptsAnyStrides) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const Inputs in = gpu_inputs({2, 2, 2, 130, 130, 64}, type);
    const std::vector<at::Tensor> expected = differentiate(in);
    // One projection for all three: read in place.
    const at::Tensor fused = at::cat({in.query, in.key, in.value}, 3);
    expect_equal(differentiate({fused.narrow(3, 0, 64), fused.narrow(3, 64, 64), fused.narrow(3, 128, 64),
                                in.grad_out}),
                 expected);
    // Not aligned, columns first, padded rows: copied.
    const auto shifted = [](const at::Tensor& x) {
      at::Tensor room = at::full({x.size(0), x.size(1), x.size(2), x.size(3) + 3}, std::nan(""), x.options());
      return room.narrow(3, 1, x.size(3)).copy_(x);
    };
    const auto by_column = [](const at::Tensor& x) { return x.transpose(2, 3).contiguous().transpose(2, 3); };
    expect_equal(differentiate({shifted(in.query), shifted(in.key), shifted(in.value), shifted(in.grad_out)}),
                 expected);
    expect_equal(
        differentiate({by_column(in.query), by_column(in.key), by_column(in.value), by_column(in.grad_out)}),
        expected);
    // One head's keys for all, without a copy of them.
    const at::Tensor one = in.key.narrow(1, 0, 1);
    expect_equal(differentiate({in.query, one.expand_as(in.key), in.value, in.grad_out}),
                 differentiate({in.query, one.repeat({1, 2, 1, 1}), in.value, in.grad_out}));
    // A gradient that a sum makes.
    expect_equal(
        differentiate({in.query, in.key, in.value, at::ones({1}, in.query.options()).expand_as(in.query)}),
        differentiate({in.query, in.key, in.value, at::ones_like(in.query)}));
  }
}

TEST_F(EntmaxDispatchGpu, ServesFp64AndAskedForReferencesByTensorOperations) {
  const Inputs wide = gpu_inputs({1, 2, 1, 200, 200, 48}, at::kDouble);
  const EntmaxErrors errors =
      compare_with_dense(wide, default_case(wide), run_operators(wide, default_case(wide)));
  EXPECT_LE(errors.out, 1e-12);
  EXPECT_LE(errors.grad_query, 1e-11);
  const Inputs odd = gpu_inputs({1, 2, 1, 200, 200, 48}, at::kFloat);
  ops::EntmaxOptions options;
  options.implementation = ops::EntmaxImplementation::reference;
  const EntmaxErrors odd_errors =
      compare_with_dense(odd, default_case(odd), run_operators(odd, default_case(odd), "reference"));
  EXPECT_LE(odd_errors.out, 1e-5);
  EXPECT_TRUE(differentiate(odd, options)[1].isfinite().all().item<bool>());
}

TEST_F(EntmaxDispatchGpu, RefusesHeadSizesWithoutKernelsByName) {
  for (const int64_t head_dim : {1, 16, 48, 80, 112, 160, 192, 512}) {
    const Inputs in = gpu_inputs({1, 2, 1, 20, 20, head_dim}, at::kBFloat16);
    const std::string message = refusal([&] { ops::entmax_attention(in.query, in.key, in.value); });
    EXPECT_NE(message.find("query: head_dim " + std::to_string(head_dim) + " has no CUDA kernels"),
              std::string::npos)
        << message;
    EXPECT_NE(message.find("32, 64, 96, 128, 256"), std::string::npos) << message;
  }
}

TEST_F(EntmaxDispatchGpu, RefusesWhatDoesNotFitByName) {
  const Inputs in = gpu_inputs({1, 2, 1, 20, 20, 64}, at::kBFloat16);
  const at::Tensor host = in.key.cpu();
  EXPECT_NE(refusal([&] {
              ops::entmax_attention(in.query, host, in.value);
            }).find("key: on cpu, but query is on cuda:0"),
            std::string::npos);
  const at::Tensor cu = *offsets({0, 20});
  EXPECT_NE(refusal([&] {
              ops::entmax_attention(in.query, in.key, in.value, {}, nullptr, &cu, &cu);
            }).find("cu_seqlens_q: on cpu, but query is on cuda:0"),
            std::string::npos);
  const auto backward = [&](const at::Tensor& mean) {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("asplash::entmax_attention_backward", "");
    const at::Tensor tau = at::zeros({1, 2, 20}, in.query.options().dtype(at::kFloat));
    std::vector<c10::IValue> stack = {
        in.grad_out, in.query, in.key,        in.value, tau,           mean,          tau,           in.query,
        in.query,    1.5,      c10::IValue(), true,     c10::IValue(), c10::IValue(), c10::IValue(), "auto"};
    op.callBoxed(&stack);
  };
  EXPECT_NE(refusal([&] {
              backward(at::empty({0}, in.query.options()));
            }).find("mean_value: expected the contiguous BFloat16 [1, 2, 20, 64] on cuda:0 that"),
            std::string::npos);
}

TEST_F(EntmaxDispatchGpu, CountsWhatItSkips) {
  const Inputs in = gpu_inputs({1, 2, 2, 1000, 1000, 64}, at::kBFloat16);
  at::Tensor statistics;
  ops::entmax_attention(in.query, in.key, in.value, {}, nullptr, nullptr, nullptr, &statistics);
  EXPECT_EQ(statistics.scalar_type(), at::kDouble);
  ASSERT_EQ(statistics.numel(), ops::kEntmaxStatistics);
  const at::Tensor counts = statistics.cpu();
  EXPECT_EQ(counts[1].item<double>(), 2 * 16 * 17 / 2);
  EXPECT_EQ(counts[3].item<double>(), 2 * 1000);
  EXPECT_EQ(counts.narrow(0, 4, 4).sum().item<double>(), 2 * 1000);
}

TEST_F(EntmaxDispatchGpu, TakesABatchOfNone) {
  for (const at::Tensor& result : differentiate(gpu_inputs({0, 2, 1, 20, 20, 64}, at::kBFloat16))) {
    EXPECT_EQ(result.numel(), 0);
    EXPECT_EQ(result.size(2), 20);
  }
}

TEST_F(EntmaxDispatchGpu, RunsOnTheCurrentStream) {
  const Inputs in = gpu_inputs({1, 4, 4, 2000, 2000, 64}, at::kBFloat16);
  const std::vector<at::Tensor> expected = differentiate(in);
  c10::cuda::getDefaultCUDAStream().synchronize();
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard guard(stream);
  Inputs late = in;
  late.query = at::zeros_like(in.query);
  const at::Tensor busy = at::randn({4096, 4096}, in.query.options());
  for (int i = 0; i < 20; ++i) busy.matmul(busy);  // on another stream the zeros below would be read
  late.query.copy_(in.query);
  const std::vector<at::Tensor> results = differentiate(late);
  stream.synchronize();
  expect_equal(results, expected);
}

TEST_F(EntmaxDispatchGpu, ReplaysGraphsToTheSameBits) {
  EntmaxCase packed;
  packed.cu_seqlens_q = packed.cu_seqlens_k = {0, 100, 100, 333, 700};
  for (const bool documents : {false, true}) {
    Inputs in = gpu_inputs({1, 4, 2, 700, 700, 64}, at::kBFloat16);
    std::optional<at::Tensor> cu;
    if (documents) cu = offsets(packed.cu_seqlens_q)->to(at::kCUDA);
    const at::Tensor slopes = at::tensor({0.5, 0.1, 0.0, 0.0}, in.query.options().dtype(at::kFloat));
    const auto step = [&] {
      std::vector<at::Tensor> leaves;
      for (const at::Tensor& x : {in.query, in.key, in.value})
        leaves.push_back(x.detach().requires_grad_(true));
      at::Tensor statistics;
      const at::Tensor out = ops::entmax_attention(leaves[0], leaves[1], leaves[2], {}, &slopes,
                                                   cu ? &*cu : nullptr, cu ? &*cu : nullptr, &statistics);
      std::vector<at::Tensor> results = torch::autograd::grad({out}, leaves, {in.grad_out});
      results.insert(results.end(), {out.detach(), statistics});
      return results;
    };
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
    step();
    at::cuda::CUDAGraph graph;
    graph.capture_begin();
    const std::vector<at::Tensor> captured = step();
    graph.capture_end();
    for (int replay = 0; replay < 3; ++replay) {
      for (at::Tensor& x : std::vector<at::Tensor>{in.query, in.key, in.value}) x.copy_(at::randn_like(x));
      for (const at::Tensor& result : captured) result.fill_(std::nan(""));
      graph.replay();
      expect_equal(captured, step());
    }
  }
}

TEST_F(EntmaxDispatchGpu, MemoryIsLinearInTokensAndSharedByCalls) {
  const auto peak = [&](int64_t tokens, int calls) {
    const Inputs in = gpu_inputs({1, 2, 2, tokens, tokens, 64}, at::kBFloat16);
    differentiate(in);  // what is made once
    c10::cuda::CUDACachingAllocator::resetPeakStats(0);
    const auto held = [] {
      const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
      return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
    };
    const int64_t before = held().current;
    for (int i = 0; i < calls; ++i) differentiate(in);
    return static_cast<double>(held().peak - before);
  };
  const double small = peak(16384, 1), large = peak(65536, 1);
  EXPECT_LT(large, 4.5 * small) << small << " bytes at 16384, " << large << " at 65536";
  EXPECT_LT(peak(16384, 4), 1.01 * small) << "each call gives back what it took";
}

}  // namespace
}  // namespace asplash::test
