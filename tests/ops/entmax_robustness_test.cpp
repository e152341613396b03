// What must hold whatever is fed: non-finite numbers stay where they are, results repeat bitwise, memory
// stays linear, bad arguments are refused by name.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <limits>

#include "asplash/ops/entmax_attention.h"
#include "asplash/ops/entmax_problem.h"
#include "ops/entmax_inputs.h"

namespace asplash::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class EntmaxRobustness : public OneThreadTest {};

struct Results {
  at::Tensor out, tau, grad_query, grad_key, grad_value;
};

Results run(const Inputs& in, const std::optional<at::Tensor>& slopes = {}, bool tiled = true) {
  const std::optional<at::Tensor> none;
  const ops::EntmaxArguments arguments{in.query, in.key, in.value, 1.5, std::nullopt,
                                       true,     slopes, none,     none};
  const auto forward =
      tiled ? ops::entmax_forward_cpu(arguments, false) : ops::entmax_forward_tensor(arguments, false);
  const auto backward = tiled ? ops::entmax_backward_cpu(in.grad_out, forward.tau, arguments)
                              : ops::entmax_backward_tensor(in.grad_out, forward.tau, arguments);
  return {forward.out, forward.tau, backward.query, backward.key, backward.value};
}

void expect_same_bits(const Results& a, const Results& b) {
  EXPECT_TRUE(a.out.equal(b.out));
  EXPECT_TRUE(a.tau.equal(b.tau));
  EXPECT_TRUE(a.grad_query.equal(b.grad_query));
  EXPECT_TRUE(a.grad_key.equal(b.grad_key));
  EXPECT_TRUE(a.grad_value.equal(b.grad_value));
}

TEST_F(EntmaxRobustness, BrokenQueriesSpoilTheirOwnRow) {
  at::manual_seed(30);
  for (const double poison : {kNan, kInfinity, -kInfinity}) {
    for (const bool tiled : {true, false}) {
      Inputs in = make_inputs({1, 2, 1, 200, 200, 16}, at::kFloat);
      const at::Tensor clean = run(in, {}, tiled).out;
      in.query[0][1][70][3].fill_(poison);
      const Results results = run(in, {}, tiled);
      EXPECT_TRUE(results.out[0][1][70].isnan().all().item<bool>());
      EXPECT_TRUE(results.tau[0][1][70].isnan().item<bool>());
      EXPECT_TRUE(results.grad_query[0][1][70].isnan().all().item<bool>());
      EXPECT_EQ(results.out.isnan().sum().item<int64_t>(), 16);
      EXPECT_TRUE(results.out[0][0].equal(clean[0][0]));
      EXPECT_TRUE(results.out[0][1].narrow(0, 0, 70).equal(clean[0][1].narrow(0, 0, 70)));
      EXPECT_TRUE(results.out[0][1].narrow(0, 71, 129).equal(clean[0][1].narrow(0, 71, 129)));
    }
  }
}

TEST_F(EntmaxRobustness, BrokenKeysSpoilTheRowsThatSeeThem) {
  at::manual_seed(31);
  for (const double poison : {kNan, kInfinity}) {
    for (const bool alibi : {true, false}) {
      Inputs in = make_inputs({1, 1, 1, 300, 300, 16}, at::kFloat);
      std::optional<at::Tensor> slopes;
      if (alibi)
        slopes = at::tensor({1.0}, at::kDouble).to(at::kFloat);  // too far to reach, but not to break
      const Results clean = run(in, slopes);
      in.key[0][0][100][3].fill_(poison);
      const Results results = run(in, slopes);
      EXPECT_TRUE(results.out[0][0].narrow(0, 0, 100).equal(clean.out[0][0].narrow(0, 0, 100)));
      EXPECT_TRUE(results.out[0][0].narrow(0, 100, 200).isnan().all().item<bool>());
      // Rounded otherwise where zeros are skipped one by one, but untouched.
      const at::Tensor change =
          results.grad_query[0][0].narrow(0, 0, 100) - clean.grad_query[0][0].narrow(0, 0, 100);
      EXPECT_LE(change.abs().max().item<double>(), 1e-5);
    }
  }
}

TEST_F(EntmaxRobustness, BrokenValuesReachOnlyRowsThatGiveThemWeight) {
  at::manual_seed(32);
  Inputs in = make_inputs({1, 1, 1, 200, 200, 16}, at::kFloat);
  const Results clean = run(in);
  const at::Tensor weights =
      run({in.query, in.key, at::eye(200).view({1, 1, 200, 200}).narrow(3, 0, 16), in.grad_out}).out;
  in.value[0][0][10].fill_(kNan);
  const Results results = run(in);
  const at::Tensor touched = weights[0][0].select(1, 10).gt(0);
  EXPECT_GT(touched.sum().item<int64_t>(), 0);
  EXPECT_TRUE(results.out[0][0].isnan().all(1).equal(touched));
  EXPECT_FALSE(results.out[0][0].isnan().any(1).logical_and(touched.logical_not()).any().item<bool>());
  EXPECT_FALSE(results.grad_query[0][0].isnan().any(1).logical_and(touched.logical_not()).any().item<bool>());
}

TEST_F(EntmaxRobustness, BrokenGradientsReachOnlyWhatTheirRowWeighs) {
  at::manual_seed(33);
  Inputs in = make_inputs({1, 1, 1, 200, 200, 16}, at::kFloat);
  in.grad_out[0][0][150].fill_(kNan);
  const Results results = run(in);
  EXPECT_EQ(results.grad_query[0][0].isnan().any(1).sum().item<int64_t>(), 1);
  EXPECT_EQ(results.grad_key.isnan().sum().item<int64_t>(), results.grad_value.isnan().sum().item<int64_t>());
  EXPECT_FALSE(results.grad_value[0][0].narrow(0, 151, 49).isnan().any().item<bool>());
}

TEST_F(EntmaxRobustness, ReadsNothingBeyondItsOperands) {
  at::manual_seed(34);
  const Inputs in = make_inputs({1, 2, 1, 130, 130, 24}, at::kFloat);
  const auto within_nan = [](const at::Tensor& x) {
    const at::Tensor room = at::full({x.size(0) + 2, x.size(1) + 2, x.size(2) + 80, x.size(3) + 9}, kNan);
    const at::Tensor place =
        room.narrow(0, 1, x.size(0)).narrow(1, 1, x.size(1)).narrow(2, 7, x.size(2)).narrow(3, 5, x.size(3));
    return place.copy_(x);
  };
  expect_same_bits(run(in), run({within_nan(in.query), within_nan(in.key), within_nan(in.value),
                                 within_nan(in.grad_out)}));
}

TEST_F(EntmaxRobustness, RepeatsBitwiseOnAnyNumberOfThreads) {
  at::manual_seed(35);
  const Inputs in = make_inputs({1, 4, 2, 700, 700, 64}, at::kFloat);
  const auto slopes = at::tensor({0.5, 0.25, 0.0, 0.0}, at::kDouble).to(at::kFloat);
  const Results first = run(in, slopes);
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    for (int repeat = 0; repeat < 3; ++repeat) expect_same_bits(first, run(in, slopes));
  }
}

TEST_F(EntmaxRobustness, OrderOfTheKeysChangesNothingButRounding) {
  at::manual_seed(36);
  const Inputs in = make_inputs({1, 2, 1, 90, 150, 16}, at::kDouble);
  ops::EntmaxOptions options;
  options.causal = false;
  const at::Tensor order = at::randperm(150, at::kLong);
  const at::Tensor straight = ops::entmax_attention(in.query, in.key, in.value, options);
  const at::Tensor mixed = ops::entmax_attention(in.query, in.key.index_select(2, order),
                                                 in.value.index_select(2, order), options);
  EXPECT_LE((straight - mixed).abs().max().item<double>(), 1e-13);
}

TEST_F(EntmaxRobustness, ShiftsOfScoresChangeNothing) {
  // The same vector added to all keys shifts a row's scores by a constant.
  at::manual_seed(37);
  const Inputs in = make_inputs({1, 2, 1, 120, 120, 16}, at::kDouble);
  const at::Tensor shifted = ops::entmax_attention(in.query, in.key + at::randn({16}, at::kDouble), in.value);
  EXPECT_LE((shifted - ops::entmax_attention(in.query, in.key, in.value)).abs().max().item<double>(), 1e-12);
}

TEST_F(EntmaxRobustness, SkipsTilesThatHoldNoWeight) {
  at::manual_seed(38);
  const Inputs in = make_inputs({1, 1, 1, 4096, 4096, 16}, at::kFloat);
  at::Tensor near, all;
  const at::Tensor steep = at::tensor({1.0}, at::kDouble).to(at::kFloat);
  ops::entmax_attention(in.query, in.key, in.value, {}, &steep, nullptr, nullptr, &near);
  ops::entmax_attention(in.query, in.key, in.value, {}, nullptr, nullptr, nullptr, &all);
  EXPECT_EQ(near[1].item<double>(), 64.0 * 65 / 2);
  EXPECT_GT(near[0].item<double>(), 0.9 * near[1].item<double>());
  EXPECT_LT(all[0].item<double>(), 0.9 * all[1].item<double>());
}

/// The process's largest resident size so far.
double peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

/// Bytes by which a pass over `tokens` tokens raises the peak; in a fresh process, see below.
double bytes_of_a_pass(int64_t tokens) {
  at::manual_seed(39);
  const Inputs in = make_inputs({1, 1, 1, tokens, tokens, 8}, at::kFloat, 4);
  const double before = peak_bytes();
  const Results results = run(in);
  return results.grad_query.isfinite().all().item<bool>() ? peak_bytes() - before
                                                          : std::numeric_limits<double>::infinity();
}

// A process has one peak, which earlier tests raise: this one starts the program anew for itself.
TEST_F(EntmaxRobustness, MemoryIsLinearInTokens) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto pass = [] {
    constexpr int64_t kTokens = 24576;  // all scores would be 2.4 GB
    const double bytes = bytes_of_a_pass(kTokens);
    std::fprintf(stderr, "a pass took %.0f bytes", bytes);
    std::exit(bytes < 200e6 ? 0 : 1);
  };
  EXPECT_EXIT(pass(), testing::ExitedWithCode(0), "a pass took");
}

/// The message that a call is refused with, or "" if it is accepted.
template <class F>
std::string refusal(F call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

void expect_refusal(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
  }
}

TEST(EntmaxRefusals, NameTheTensorThatIsWrong) {
  const at::Tensor q = at::randn({2, 4, 10, 8}), k = at::randn({2, 2, 10, 8}), v = at::randn({2, 2, 10, 8});
  const auto with = [&](const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
    return refusal([&] { ops::entmax_attention(query, key, value); });
  };
  expect_refusal(with(q[0], k, v),
                 {"query: expected 4 dimensions [batch, heads, q_tokens, head_dim]", "[4, 10, 8]"});
  expect_refusal(with(q, k[0], v), {"key: expected 4 dimensions", "[2, 10, 8]"});
  expect_refusal(with(q, k, v[0]), {"value: expected 4 dimensions", "[2, 10, 8]"});
  expect_refusal(with(q, at::randn({1, 2, 10, 8}), v), {"key: batch 1", "query's 2"});
  expect_refusal(with(q, at::randn({2, 2, 10, 9}), v), {"key: head_dim 9", "query's 8"});
  expect_refusal(with(q, at::randn({2, 3, 10, 8}), v), {"key: kv_heads 3", "must divide query's heads 4"});
  expect_refusal(with(q, k, at::randn({2, 2, 11, 8})),
                 {"value: shape [2, 2, 11, 8] differs from key's [2, 2, 10, 8]"});
  expect_refusal(with(q.to(at::kInt), k, v), {"query: dtype Int is not supported"});
  expect_refusal(with(q, k.to(at::kDouble), v), {"key: dtype Double differs from query's Float"});
  expect_refusal(with(q, k, v.to(at::kBFloat16)), {"value: dtype BFloat16 differs from query's Float"});
}

TEST(EntmaxRefusals, NameTheOptionThatIsWrong) {
  const at::Tensor q = at::randn({1, 2, 10, 8}), k = at::randn({1, 2, 10, 8});
  for (const double alpha : {1.0, 0.5, 2.5, kNan}) {
    ops::EntmaxOptions options;
    options.alpha = alpha;
    expect_refusal(refusal([&] { ops::entmax_attention(q, k, k, options); }), {"alpha: ", "outside (1, 2]"});
  }
  ops::EntmaxOptions options;
  options.scale = kInfinity;
  expect_refusal(refusal([&] { ops::entmax_attention(q, k, k, options); }), {"scale: inf must be finite"});
  const auto with_slopes = [&](const at::Tensor& slopes) {
    return refusal([&] { ops::entmax_attention(q, k, k, {}, &slopes); });
  };
  expect_refusal(with_slopes(at::ones({3})), {"alibi_slopes: expected [2]", "got [3]"});
  expect_refusal(with_slopes(at::ones({2}, at::kDouble)), {"alibi_slopes: expected float32, got Double"});
  expect_refusal(with_slopes(at::full({2}, -1.0)),
                 {"alibi_slopes: slope -1 of head 0 must be finite and at least 0"});
  expect_refusal(with_slopes(at::full({2}, kNan)), {"alibi_slopes: slope nan of head 0"});
}

TEST(EntmaxRefusals, NameTheDocumentsThatAreWrong) {
  const at::Tensor q = at::randn({1, 2, 10, 8});
  const auto with = [&](const at::Tensor& x, const at::Tensor& cu_q, const at::Tensor& cu_k) {
    return refusal([&] {
      ops::entmax_attention(x, x, x, {}, nullptr, cu_q.defined() ? &cu_q : nullptr,
                            cu_k.defined() ? &cu_k : nullptr);
    });
  };
  const at::Tensor good = *offsets({0, 4, 10});
  EXPECT_EQ(with(q, good, good), "");
  expect_refusal(with(q, good, {}), {"cu_seqlens_k: missing"});
  expect_refusal(with(q, {}, good), {"cu_seqlens_q: missing"});
  expect_refusal(with(at::randn({2, 2, 10, 8}), good, good), {"need batch 1, got query [2, 2, 10, 8]"});
  expect_refusal(with(q, good.to(at::kLong), good), {"cu_seqlens_q: expected int32, got Long"});
  expect_refusal(with(q, good.view({1, 3}), good), {"cu_seqlens_q: expected [documents + 1]", "got [1, 3]"});
  expect_refusal(with(q, *offsets({0}), *offsets({0})), {"at least one document, got [1]"});
  expect_refusal(with(q, *offsets({1, 4, 10}), good), {"cu_seqlens_q: must start with 0, starts with 1"});
  expect_refusal(with(q, good, *offsets({0, 4, 9})),
                 {"cu_seqlens_k: must end with the number of tokens 10, ends with 9"});
  expect_refusal(with(q, *offsets({0, 6, 4, 10}), *offsets({0, 4, 5, 10})),
                 {"cu_seqlens_q: must not decrease, but entry 2 is 4 after 6"});
  expect_refusal(with(q, good, *offsets({0, 4, 5, 10})),
                 {"cu_seqlens_k: 3 documents, but cu_seqlens_q has 2"});
}

TEST(EntmaxRefusals, NameWhatTheBackwardOperatorLacks) {
  const at::Tensor q = at::randn({1, 2, 10, 8}), tau = at::zeros({1, 2, 10});
  const std::optional<at::Tensor> none;
  const ops::EntmaxArguments arguments{q, q, q, 1.5, std::nullopt, true, none, none, none};
  const auto with = [&](const at::Tensor& grad_out, const at::Tensor& thresholds) {
    return refusal([&] { ops::entmax_backward_cpu(grad_out, thresholds, arguments); });
  };
  EXPECT_EQ(with(q, tau), "");
  expect_refusal(with(at::randn({1, 2, 9, 8}), tau),
                 {"grad_out: expected query's shape [1, 2, 10, 8], got [1, 2, 9, 8]"});
  expect_refusal(with(q.to(at::kDouble), tau), {"grad_out: dtype Double differs from query's Float"});
  expect_refusal(with(q, tau[0]), {"tau: expected [batch, heads, q_tokens] = [1, 2, 10], got [2, 10]"});
  expect_refusal(with(q, tau.to(at::kDouble)), {"tau: expected Float, got Double"});
}

TEST(EntmaxRefusals, AcceptEmptyTensors) {
  for (const Shape& shape :
       {Shape{0, 2, 1, 5, 5, 8}, Shape{1, 2, 1, 0, 0, 8}, Shape{1, 2, 1, 5, 0, 8}, Shape{1, 2, 1, 0, 5, 8}}) {
    for (const bool tiled : {true, false}) {
      const Results results = run(make_inputs(shape, at::kFloat), {}, tiled);
      EXPECT_EQ(results.out.size(2), shape.q_tokens);
      EXPECT_EQ(results.grad_key.size(2), shape.k_tokens);
      EXPECT_FALSE(results.out.ne(0).any().item<bool>());
    }
  }
}

}  // namespace
}  // namespace asplash::test
