#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "ops/entmax_dense.h"

/// What GPU tests of entmax attention share.
namespace asplash::test {

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
    at::manual_seed(40);
  }
};

/// Normal inputs [batch, heads, tokens, head_dim] on the GPU as projections lay them out: tokens outside
/// heads. spread: standard deviation of query and key, so that of the scores is its square at the default
/// scale.
Inputs gpu_inputs(const Shape& shape, at::ScalarType type, double spread = 1);

/// 1/sqrt(head_dim), the operator's default.
EntmaxCase default_case(const Inputs& in);

/// Forward (with everything it can return) and backward by the operators themselves, no autograd.
EntmaxResults run_operators(const Inputs& in, const EntmaxCase& call,
                            const std::string& implementation = "auto");

/// Errors that the kernels keep to: what the published ones reach at head_dim 64 in bf16, half of that in
/// fp16 (which rounds 8 times finer), fp32's rounding in fp32.
EntmaxTolerance kernel_tolerance(at::ScalarType type);

/// run_operators against compare_with_dense, statistics included.
void expect_kernels_match(const Inputs& in, const EntmaxCase& call);
void expect_kernels_match(const Inputs& in, const EntmaxCase& call, const EntmaxTolerance& tolerance,
                          bool of_terms = false);

/// All of the results, bit for bit.
void expect_same_bits(const EntmaxResults& a, const EntmaxResults& b);

}  // namespace asplash::test
