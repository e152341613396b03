// The fp64 reference by tensor operations, which the GPU's kernels are held against, against the one by
// loops: on the CPU, so that it is tested where no GPU is. And that it does notice what is wrong.

#include "ops/entmax_dense.h"

#include <gtest/gtest.h>

#include "asplash/ops/entmax_problem.h"

namespace asplash::test {
namespace {

EntmaxResults results_of(const EntmaxReference& reference) {
  EntmaxResults results;
  results.out = reference.out;
  results.tau = reference.tau;
  results.grad_query = reference.grad_query;
  results.grad_key = reference.grad_key;
  results.grad_value = reference.grad_value;
  return results;
}

class EntmaxDense : public OneThreadTest {
 protected:
  EntmaxErrors expect_equal(const Inputs& in, const EntmaxCase& call) {
    const EntmaxReference reference = entmax_reference(in.query, in.key, in.value, call, in.grad_out);
    const EntmaxErrors errors = compare_with_dense(in, call, results_of(reference));
    expect_within(errors, {1e-12, 1e-11, 1e-11, 1e-11, 1e-12, 1e-9});
    EXPECT_EQ(errors.tiles, reference.tiles);
    EXPECT_EQ(errors.zero_tiles, reference.zero_tiles);
    EXPECT_EQ(errors.support, reference.support);
    EXPECT_EQ(errors.rows, reference.rows);
    return errors;
  }
};

TEST_F(EntmaxDense, EqualsTheReferenceByLoops) {
  at::manual_seed(60);
  for (const double alpha : {1.25, 1.5, 2.0}) {
    for (const bool causal : {true, false}) {
      SCOPED_TRACE(testing::Message() << "alpha " << alpha << ", causal " << causal);
      EntmaxCase call;
      call.alpha = alpha;
      call.causal = causal;
      call.scale = 0.3;
      expect_equal(make_inputs({2, 4, 2, 130, 130, 8}, at::kDouble), call);
      expect_equal(make_inputs({1, 2, 1, 3, 200, 8}, at::kDouble), call);
      expect_equal(make_inputs({1, 2, 1, 130, 7, 8}, at::kDouble), call);
      call.slopes = {0.5, 0.0};
      call.cu_seqlens_q = {0, 3, 3, 67, 70, 171};
      call.cu_seqlens_k = {0, 64, 70, 70, 135, 336};
      expect_equal(make_inputs({1, 2, 2, 171, 336, 8}, at::kDouble), call);
    }
  }
}

TEST_F(EntmaxDense, NoticesWhatIsWrong) {
  at::manual_seed(61);
  const Inputs in = make_inputs({1, 2, 1, 300, 300, 8}, at::kDouble);
  EntmaxCase call;
  call.scale = 1;
  const EntmaxReference reference = entmax_reference(in.query, in.key, in.value, call, in.grad_out);
  const auto with = [&](auto change) {
    EntmaxResults results = results_of(reference);
    change(results);
    return compare_with_dense(in, call, results);
  };
  EXPECT_NEAR(with([](EntmaxResults& r) { r.out = r.out * 1.01; }).out, 0.01, 1e-9);
  // Less than 0.01: rows of few keys have gradients far smaller than the terms that they are the difference
  // of.
  const double of_query = with([](EntmaxResults& r) { r.grad_query = r.grad_query * 1.01; }).grad_query;
  const double of_key = with([](EntmaxResults& r) { r.grad_key = r.grad_key * 1.01; }).grad_key;
  for (const double error : {of_query, of_key}) {
    EXPECT_GT(error, 0.002);
    EXPECT_LT(error, 0.0101);
  }
  EXPECT_NEAR(with([](EntmaxResults& r) { r.grad_value = r.grad_value * 1.01; }).grad_value, 0.01, 1e-9);
  const EntmaxErrors shifted = with([](EntmaxResults& r) { r.tau = r.tau + 0.01; });
  EXPECT_NEAR(shifted.tau, 0.01, 1e-4);
  EXPECT_GT(shifted.mass, 0.005);
  EXPECT_TRUE(std::isnan(with([](EntmaxResults& r) {
                           r.out = r.out.clone();
                           r.out[0][1][7][3].fill_(std::numeric_limits<double>::quiet_NaN());
                         }).out));
  EXPECT_EQ(with([](EntmaxResults& r) { r.tau = r.tau * std::nan(""); }).tau,
            std::numeric_limits<double>::infinity());

  // A mask of the tiles with weight drops none; any bit of it less does.
  const at::Tensor tiles =
      at::constant_pad_nd(reference.weights.gt(0), {0, 20, 0, 20}).view({1, 2, 5, 64, 5, 64}).any(5).any(3);
  const at::Tensor mask =
      tiles.to(at::kInt).mul(at::pow(2, at::arange(5, at::kInt))).sum(3, true).to(at::kInt);
  EXPECT_LE(with([&](EntmaxResults& r) { r.tile_mask = mask; }).hidden_excess, 0);
  const at::Tensor less = mask.clone();
  less[0][1][4].bitwise_and_(~(1 << 4));
  EXPECT_GT(with([&](EntmaxResults& r) { r.tile_mask = less; }).hidden_excess, 0.01);
}

TEST_F(EntmaxDense, RowsWithoutKeysMustBeEmpty) {
  EntmaxCase call;
  const Inputs in = make_inputs({1, 1, 1, 10, 4, 8}, at::kDouble);
  EntmaxResults results = results_of(entmax_reference(in.query, in.key, in.value, call, in.grad_out));
  EXPECT_TRUE(compare_with_dense(in, call, results).unseen_rows_are_empty);
  results.out[0][0][2][1].fill_(1e-30);
  EXPECT_FALSE(compare_with_dense(in, call, results).unseen_rows_are_empty);
}

}  // namespace
}  // namespace asplash::test
