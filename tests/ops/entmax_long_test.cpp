// Entmax attention at the lengths around 16384, where the reference, which is dense, can only follow a few
// queries.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "asplash/ops/entmax_problem.h"
#include "ops/entmax_inputs.h"
#include "ops/entmax_reference.h"

namespace asplash::test {
namespace {

class EntmaxLong : public OneThreadTest {};

constexpr int64_t kFollowed = 70;  ///< the last queries: more than a tile of 64

/// The last kFollowed queries see all keys. With gradients into their outputs alone, all gradients are
/// theirs.
void expect_last_queries_match(int64_t tokens, const std::vector<double>& slope) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, slopes: " << slope.size());
  at::manual_seed(50);
  Inputs in = make_inputs({1, 1, 1, tokens, tokens, 8}, at::kDouble);
  in.grad_out.narrow(2, 0, tokens - kFollowed).zero_();
  const auto last = [&](const at::Tensor& x) { return x.narrow(2, tokens - kFollowed, kFollowed); };
  EntmaxCase call;
  call.scale = 1 / std::sqrt(8.0);
  call.slopes = slope;
  const EntmaxReference expected =
      entmax_reference(last(in.query), in.key, in.value, call, last(in.grad_out));

  std::optional<at::Tensor> slopes;
  if (!slope.empty()) slopes = at::tensor(slope, at::kDouble).to(at::kFloat);
  const std::optional<at::Tensor> none;
  const ops::EntmaxArguments arguments{in.query, in.key, in.value, 1.5, std::nullopt,
                                       true,     slopes, none,     none};
  const auto forward = ops::entmax_forward_cpu(arguments, true);
  const auto backward = ops::entmax_backward_cpu(in.grad_out, forward.tau, arguments);
  EXPECT_LE(relative_error(last(forward.out), expected.out), 1e-12);
  EXPECT_LE(relative_error(last(forward.tau), expected.tau), 1e-12);
  EXPECT_LE(relative_error(last(backward.query), expected.grad_query), 1e-11);
  EXPECT_LE(relative_error(backward.key, expected.grad_key), 1e-11);
  EXPECT_LE(relative_error(backward.value, expected.grad_value), 1e-11);
  EXPECT_EQ(backward.query.narrow(2, 0, tokens - kFollowed).count_nonzero().item<int64_t>(), 0);
  const int64_t tiles = (tokens + 63) / 64;
  EXPECT_EQ(forward.statistics[1].item<double>(), static_cast<double>(tiles * (tiles + 1) / 2));
  EXPECT_EQ(forward.statistics[3].item<double>(), static_cast<double>(tokens));
}

TEST_F(EntmaxLong, TheLastQueriesMatchTheReferenceAround16384) {
  for (const int64_t tokens : {16383, 16384, 16385}) expect_last_queries_match(tokens, {});
  expect_last_queries_match(16385, {1.0 / 1024});
}

TEST_F(EntmaxLong, RepeatsBitwiseAt16385) {
  at::manual_seed(51);
  const Inputs in = make_inputs({1, 1, 1, 16385, 16385, 8}, at::kFloat);
  const std::optional<at::Tensor> none;
  const ops::EntmaxArguments arguments{in.query, in.key, in.value, 1.5, std::nullopt, true, none, none, none};
  std::vector<at::Tensor> first;
  for (const int threads : {1, 2, 2}) {
    at::set_num_threads(threads);
    const auto forward = ops::entmax_forward_cpu(arguments, false);
    const auto backward = ops::entmax_backward_cpu(in.grad_out, forward.tau, arguments);
    const std::vector<at::Tensor> now = {forward.out, forward.tau, backward.query, backward.key,
                                         backward.value};
    if (first.empty()) first = now;
    for (size_t i = 0; i < now.size(); ++i) EXPECT_TRUE(now[i].equal(first[i])) << i << ", " << threads;
  }
}

}  // namespace
}  // namespace asplash::test
