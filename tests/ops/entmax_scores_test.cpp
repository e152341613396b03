// Entmax attention on scores made to order, at the operator: what the bounds that skip tiles, the order in
// which maxima arrive and the size of scores could get wrong. (Rows alone: entmax_threshold_test.cpp.)

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "asplash/ops/entmax_problem.h"
#include "ops/entmax_inputs.h"
#include "ops/entmax_reference.h"

namespace asplash::test {
namespace {

class EntmaxScores : public OneThreadTest {};

constexpr int64_t kTokens = 330;  // six tiles, the last one short

struct NamedScores {
  const char* name;
  at::Tensor of_key;  ///< [kTokens], the score of each key for every query
};

std::vector<NamedScores> made_to_order() {
  const at::Tensor j = at::arange(kTokens, at::kDouble);
  const at::Tensor noise = at::randn({kTokens}, at::kDouble);
  const auto with = [](const at::Tensor& scores, int64_t key, double score) {
    at::Tensor changed = scores.clone();
    changed[key] = score;
    return changed;
  };
  return {{"all equal", at::zeros({kTokens}, at::kDouble)},
          {"nearly equal", 1e-3 * noise},
          {"ascending, the maximum grows at every tile", 0.02 * j},
          {"ascending steeply, one key a row", 3 * j},
          {"descending", -0.02 * j},
          {"a sink column", with(noise, 0, 30)},
          {"a sink column that leaves a little to the others", with(noise, 0, 2)},
          {"one dominant key", with(noise, 200, 30)},
          // z = x / 2: key 0 alone has the threshold -1, where all others lie.
          {"ties at the threshold", with(at::full({kTokens}, -2.0, at::kDouble), 0, 0)},
          {"around 1e3", 1e3 + noise},
          {"up to 1e4", 1e4 * noise / noise.abs().max()}};
}

/// Largest difference, against the size of what is expected where that is above 1.
double difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>() / std::max(1.0, b.abs().max().item<double>());
}

TEST_F(EntmaxScores, MatchTheReference) {
  at::manual_seed(60);
  for (const NamedScores& scores : made_to_order()) {
    for (const bool alibi : {false, true}) {
      Inputs in = make_inputs({1, 2, 1, kTokens, kTokens, 16}, at::kDouble);
      in.query.zero_().select(3, 0).fill_(1);  // query . key = the key's first number
      in.key.select(3, 0).copy_(scores.of_key);
      EntmaxCase call;
      std::optional<at::Tensor> slopes;
      if (alibi) {
        call.slopes = std::vector<double>{1.0, 0.0625};
        slopes = at::tensor(call.slopes, at::kDouble).to(at::kFloat);
      }
      const EntmaxReference expected = entmax_reference(in.query, in.key, in.value, call, in.grad_out);
      const std::optional<at::Tensor> none;
      const ops::EntmaxArguments arguments{in.query, in.key, in.value, 1.5, 1.0, true, slopes, none, none};
      for (const bool tiled : {true, false}) {
        SCOPED_TRACE(testing::Message() << scores.name << (alibi ? ", ALiBi" : "")
                                        << (tiled ? ", CPU implementation" : ", tensor implementation"));
        const auto forward =
            tiled ? ops::entmax_forward_cpu(arguments, true) : ops::entmax_forward_tensor(arguments, true);
        const auto backward = tiled ? ops::entmax_backward_cpu(in.grad_out, forward.tau, arguments)
                                    : ops::entmax_backward_tensor(in.grad_out, forward.tau, arguments);
        // Scores of 1e4 carry rounding of 1e-12, which keys of 1e4 multiply in the gradient of the queries.
        EXPECT_LE(difference(forward.out, expected.out), 1e-11);
        EXPECT_LE(difference(forward.tau, expected.tau), 1e-14);
        EXPECT_LE(difference(backward.value, expected.grad_value), 1e-11);
        EXPECT_LE(difference(backward.key, expected.grad_key), 1e-11);
        EXPECT_LE(difference(backward.query, expected.grad_query), 1e-7);
        if (expected.edge_distance < 1e-12) continue;  // rounding decides who has weight 0 and who 1e-32
        EXPECT_EQ(forward.statistics[0].item<double>(), expected.zero_tiles);
        EXPECT_EQ(forward.statistics[2].item<double>(), expected.support);
      }
    }
  }
}

TEST_F(EntmaxScores, RepeatBitwiseAThousandTimes) {
  at::manual_seed(61);
  at::set_num_threads(2);
  const Inputs in = make_inputs({1, 4, 2, 130, 130, 32}, at::kFloat);
  const std::optional<at::Tensor> none;
  const std::optional<at::Tensor> slopes = at::tensor({0.5, 0.25, 0.0, 0.0}, at::kDouble).to(at::kFloat);
  const ops::EntmaxArguments arguments{in.query, in.key, in.value, 1.5, std::nullopt,
                                       true,     slopes, none,     none};
  std::vector<at::Tensor> first;
  for (int repeat = 0; repeat < 1000; ++repeat) {
    const auto forward = ops::entmax_forward_cpu(arguments, false);
    const auto backward = ops::entmax_backward_cpu(in.grad_out, forward.tau, arguments);
    const std::vector<at::Tensor> now = {forward.out, forward.tau, backward.query, backward.key,
                                         backward.value};
    if (first.empty()) first = now;
    for (size_t i = 0; i < now.size(); ++i) ASSERT_TRUE(now[i].equal(first[i])) << i << ", repeat " << repeat;
  }
}

}  // namespace
}  // namespace asplash::test
