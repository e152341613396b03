// The CUDA kernels behind asplash::entmax_attention against dense fp64: shapes, types, masks, groups,
// documents, biases, alphas, lengths.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/entmax_gpu.h"

namespace asplash::test {
namespace {

class EntmaxKernelsGpu : public GpuTest {};

constexpr at::ScalarType kTypes[] = {at::kBFloat16, at::kHalf, at::kFloat};

TEST_F(EntmaxKernelsGpu, MatchTheReferenceAtEveryLength) {
  for (const int64_t head_dim : {64, 128}) {
    for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
      for (const int64_t n : {1, 2, 63, 64, 65, 127, 128, 129, 191, 193, 1000}) {
        for (const bool causal : {true, false}) {
          SCOPED_TRACE(testing::Message()
                       << n << " tokens, head_dim " << head_dim << ", " << type << ", causal " << causal);
          const Inputs in = gpu_inputs({1, 4, 2, n, n, head_dim}, type);
          EntmaxCase call = default_case(in);
          call.causal = causal;
          expect_kernels_match(in, call);
        }
      }
    }
  }
}

TEST_F(EntmaxKernelsGpu, MatchTheReferenceForEveryHeadSizeAndType) {
  for (const int64_t head_dim : {32, 64, 96, 128, 256}) {
    for (const at::ScalarType type : kTypes) {
      for (const bool causal : {true, false}) {
        SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << ", " << type << ", causal " << causal);
        const Inputs in = gpu_inputs({2, 2, 1, 333, 333, head_dim}, type);
        EntmaxCase call = default_case(in);
        call.causal = causal;
        expect_kernels_match(in, call);
      }
    }
  }
}

TEST_F(EntmaxKernelsGpu, StayAccurateAtTwoThousandTokens) {
  for (const int64_t head_dim : {64, 128}) {
    for (const at::ScalarType type : kTypes) {
      SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << ", " << type);
      const Inputs dense = gpu_inputs({1, 4, 4, 2048, 2048, head_dim}, type);
      expect_kernels_match(dense, default_case(dense));
      const Inputs uniform = gpu_inputs({1, 4, 4, 2048, 2048, head_dim}, type, 0.1);
      expect_kernels_match(uniform, default_case(uniform));
      const Inputs sharp = gpu_inputs({1, 4, 4, 2048, 2048, head_dim}, type, 3);
      EntmaxTolerance tolerance = kernel_tolerance(type);
      if (type != at::kFloat) tolerance.grad_query = 0.011;  // the published kernels', on such scores
      expect_kernels_match(sharp, default_case(sharp), tolerance);
    }
  }
}

TEST_F(EntmaxKernelsGpu, MatchTheReferenceAround16384) {
  for (const int64_t head_dim : {64, 128}) {
    for (const int64_t n : {16383, 16384, 16385}) {
      SCOPED_TRACE(testing::Message() << n << " tokens, head_dim " << head_dim);
      const Inputs in = gpu_inputs({1, 1, 1, n, n, head_dim}, at::kBFloat16);
      expect_kernels_match(in, default_case(in));
    }
  }
  const Inputs in = gpu_inputs({1, 2, 1, 16385, 16385, 64}, at::kBFloat16);
  EntmaxCase call = default_case(in);
  call.slopes = {0.25, 1.0 / 4096};
  expect_kernels_match(in, call);
}

TEST_F(EntmaxKernelsGpu, ShareKeyValueHeadsWithinGroups) {
  for (const int64_t ratio : {1, 2, 4, 7, 8}) {
    for (const at::ScalarType type : kTypes) {
      SCOPED_TRACE(testing::Message() << "ratio " << ratio << ", " << type);
      const Inputs in = gpu_inputs({2, 2 * ratio, 2, 150, 150, 64}, type);
      expect_kernels_match(in, default_case(in));
    }
  }
}

TEST_F(EntmaxKernelsGpu, AlignDifferingLengthsAtTheEnd) {
  const std::vector<std::pair<int64_t, int64_t>> lengths = {
      {1, 1}, {1, 200}, {1, 4097}, {3, 65}, {64, 190}, {65, 64}, {130, 7}, {200, 2000}, {5, 0}, {0, 10}};
  for (const auto& [q_tokens, k_tokens] : lengths) {
    for (const bool causal : {true, false}) {
      for (const bool alibi : {true, false}) {
        SCOPED_TRACE(testing::Message() << q_tokens << " queries, " << k_tokens << " keys, causal " << causal
                                        << ", alibi " << alibi);
        const Inputs in = gpu_inputs({2, 4, 2, q_tokens, k_tokens, 64}, at::kBFloat16);
        EntmaxCase call = default_case(in);
        call.causal = causal;
        if (alibi) call.slopes = {0.5, 0.125, 0.01, 0.0};
        expect_kernels_match(in, call);
      }
    }
  }
}

TEST_F(EntmaxKernelsGpu, KeepPackedDocumentsApart) {
  // Boundaries on, before and after tiles' edges; empty and one-token documents.
  const std::vector<int64_t> boundaries = {0, 0, 1, 2, 66, 129, 193, 256, 256, 257, 320, 448, 449, 700};
  for (const at::ScalarType type : kTypes) {
    for (const bool causal : {true, false}) {
      for (const bool alibi : {true, false}) {
        SCOPED_TRACE(testing::Message() << type << ", causal " << causal << ", alibi " << alibi);
        const Inputs in = gpu_inputs({1, 4, 2, 700, 700, 64}, type);
        EntmaxCase call = default_case(in);
        call.causal = causal;
        if (alibi) call.slopes = {0.5, 0.125, 0.01, 0.0};
        call.cu_seqlens_q = call.cu_seqlens_k = boundaries;
        expect_kernels_match(in, call);
        const Inputs other = gpu_inputs({1, 4, 2, 171, 336, 64}, type);
        call.cu_seqlens_q = std::vector<int64_t>{0, 3, 3, 67, 70, 171};
        call.cu_seqlens_k = std::vector<int64_t>{0, 64, 70, 70, 135, 336};
        expect_kernels_match(other, call);
      }
    }
  }
}

TEST_F(EntmaxKernelsGpu, TreatPackedDocumentsLikeSingleOnes) {
  const Inputs in = gpu_inputs({1, 4, 2, 450, 450, 64}, at::kBFloat16);
  EntmaxCase call = default_case(in);
  call.cu_seqlens_q = call.cu_seqlens_k = std::vector<int64_t>{0, 1, 1, 64, 66, 200, 450};
  const EntmaxResults packed = run_operators(in, call);
  for (size_t d = 0; d + 1 < call.cu_seqlens_q.size(); ++d) {
    const int64_t begin = call.cu_seqlens_q[d], length = call.cu_seqlens_q[d + 1] - begin;
    if (length == 0) continue;
    const auto part = [&](const at::Tensor& x) { return x.narrow(2, begin, length); };
    const Inputs alone{part(in.query), part(in.key), part(in.value), part(in.grad_out)};
    const EntmaxResults single = run_operators(alone, default_case(alone));
    EXPECT_TRUE(part(packed.out).equal(single.out)) << d;
    EXPECT_TRUE(packed.tau.narrow(2, begin, length).equal(single.tau)) << d;
  }
}

TEST_F(EntmaxKernelsGpu, SurviveOffsetsThatLeadOutside) {
  const Inputs in = gpu_inputs({1, 2, 1, 200, 200, 64}, at::kBFloat16);
  for (const std::vector<int64_t>& wrong :
       {std::vector<int64_t>{0, 100, 100000}, std::vector<int64_t>{-70, 300, 5},
        std::vector<int64_t>{500, 400, -3}, std::vector<int64_t>{0, 7}}) {
    EntmaxCase call = default_case(in);
    call.cu_seqlens_q = call.cu_seqlens_k = wrong;
    EXPECT_EQ(run_operators(in, call).out.sizes(), in.query.sizes());
    EXPECT_EQ(at::ones({1}, in.query.options()).item<double>(), 1.0) << "the device still works";
  }
}

TEST_F(EntmaxKernelsGpu, ApplyAlibiSlopes) {
  for (const at::ScalarType type : kTypes) {
    for (const int64_t head_dim : {64, 128}) {
      for (const bool causal : {true, false}) {
        SCOPED_TRACE(testing::Message() << type << ", head_dim " << head_dim << ", causal " << causal);
        const Inputs in = gpu_inputs({1, 8, 4, 1500, 1500, head_dim}, type);
        EntmaxCase call = default_case(in);
        call.causal = causal;
        call.slopes = {8, 1, 0.5, 0.25, 0.125, 0.01, 0.0001, 0};
        expect_kernels_match(in, call);
      }
    }
  }
}

TEST_F(EntmaxKernelsGpu, SolveAnyAlpha) {
  for (const at::ScalarType type : kTypes) {
    for (const double alpha : {1.1, 1.25, 1.5, 1.75, 2.0}) {
      for (const bool causal : {true, false}) {
        SCOPED_TRACE(testing::Message() << type << ", alpha " << alpha << ", causal " << causal);
        const Inputs in = gpu_inputs({1, 2, 1, 500, 500, 64}, type);
        EntmaxCase call = default_case(in);
        call.alpha = alpha;
        call.causal = causal;
        EntmaxTolerance tolerance = kernel_tolerance(type);
        // u^(1 / (alpha - 1)) magnifies the rounding of u: tenfold at 1.1.
        if (type == at::kFloat) tolerance = {1e-4, 4e-4, 4e-4, 2e-4, 2e-5, 2e-4};
        expect_kernels_match(in, call, tolerance);
        call.slopes = {0.5, 0.05};
        expect_kernels_match(in, call, tolerance);
      }
    }
  }
}

TEST_F(EntmaxKernelsGpu, UseTheGivenScale) {
  for (const double scale : {0.03, 1.0, -0.2}) {
    SCOPED_TRACE(testing::Message() << "scale " << scale);
    const Inputs in = gpu_inputs({1, 2, 2, 190, 190, 64}, at::kBFloat16, 0.7);
    EntmaxCase call;
    call.scale = scale;
    expect_kernels_match(in, call);
  }
}

TEST_F(EntmaxKernelsGpu, RepeatBitwiseAThousandTimes) {
  const Inputs in = gpu_inputs({1, 8, 2, 700, 700, 64}, at::kBFloat16);
  EntmaxCase call = default_case(in);
  call.slopes = {0.5, 0.25, 0.1, 0.01, 0, 0, 0, 0};
  const EntmaxResults first = run_operators(in, call);
  at::Tensor changed = at::zeros({}, in.query.options().dtype(at::kBool));
  const auto differs = [](const at::Tensor& a, const at::Tensor& b) { return a.ne(b).any(); };
  for (int repeat = 0; repeat < 1000; ++repeat) {
    const EntmaxResults again = run_operators(in, call);
    changed.logical_or_(differs(again.out, first.out)).logical_or_(differs(again.tau, first.tau));
    changed.logical_or_(differs(again.grad_query, first.grad_query));
    changed.logical_or_(differs(again.grad_key, first.grad_key));
    changed.logical_or_(differs(again.grad_value, first.grad_value));
  }
  EXPECT_FALSE(changed.item<bool>());
}

TEST_F(EntmaxKernelsGpu, OrderOfTheKeysChangesNothingButRounding) {
  const Inputs in = gpu_inputs({1, 2, 1, 190, 350, 64}, at::kFloat);
  EntmaxCase call = default_case(in);
  call.causal = false;
  const at::Tensor order = at::randperm(350, in.query.options().dtype(at::kLong));
  const Inputs mixed{in.query, in.key.index_select(2, order), in.value.index_select(2, order), in.grad_out};
  EXPECT_LE(relative_error(run_operators(mixed, call).out, run_operators(in, call).out), 1e-5);
}

TEST_F(EntmaxKernelsGpu, FollowTheReferenceImplementation) {
  const Inputs in = gpu_inputs({1, 4, 2, 3000, 3000, 64}, at::kFloat);
  const EntmaxCase call = default_case(in);
  const EntmaxResults kernels = run_operators(in, call), reference = run_operators(in, call, "reference");
  EXPECT_LE(relative_error(kernels.out, reference.out), 1e-5);
  EXPECT_LE(relative_error(kernels.tau, reference.tau), 1e-5);
  EXPECT_LE(relative_error(kernels.grad_query, reference.grad_query), 4e-5);
  EXPECT_LE(relative_error(kernels.grad_key, reference.grad_key), 4e-5);
  EXPECT_LE(relative_error(kernels.grad_value, reference.grad_value), 4e-5);
}

}  // namespace
}  // namespace asplash::test
