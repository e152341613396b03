#include "ops/entmax_reference.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "ops/entmax_thresholds.h"

namespace asplash::test {
namespace {

struct Pairs {
  const EntmaxCase& call;
  int64_t q_tokens, k_tokens;

  /// Visits each document as (first query, queries, first key, keys).
  void documents(const std::function<void(int64_t, int64_t, int64_t, int64_t)>& visit) const {
    if (call.cu_seqlens_q.empty()) return visit(0, q_tokens, 0, k_tokens);
    for (size_t d = 0; d + 1 < call.cu_seqlens_q.size(); ++d) {
      visit(call.cu_seqlens_q[d], call.cu_seqlens_q[d + 1] - call.cu_seqlens_q[d], call.cu_seqlens_k[d],
            call.cu_seqlens_k[d + 1] - call.cu_seqlens_k[d]);
    }
  }
};

/// visible and distance of every (query, key) pair, [q, k].
void lay_out(const Pairs& pairs, at::Tensor& visible, at::Tensor& distance) {
  visible = at::zeros({pairs.q_tokens, pairs.k_tokens}, at::kBool);
  distance = at::zeros({pairs.q_tokens, pairs.k_tokens}, at::kDouble);
  auto see = visible.accessor<bool, 2>();
  auto far = distance.accessor<double, 2>();
  pairs.documents([&](int64_t q0, int64_t queries, int64_t k0, int64_t keys) {
    for (int64_t i = 0; i < queries; ++i) {
      for (int64_t j = 0; j < keys; ++j) {
        const int64_t back = i + (keys - queries) - j;
        see[q0 + i][k0 + j] = !pairs.call.causal || back >= 0;
        far[q0 + i][k0 + j] = std::abs(static_cast<double>(back));
      }
    }
  });
}

void count_tiles(const Pairs& pairs, const at::Tensor& visible, EntmaxReference& result) {
  const at::Tensor positive = result.weights.gt(0);
  const int64_t copies = positive.size(0) * positive.size(1);
  pairs.documents([&](int64_t q0, int64_t queries, int64_t k0, int64_t keys) {
    for (int64_t i = 0; i < queries; i += 64) {
      for (int64_t j = 0; j < keys; j += 64) {
        const auto tile = [&](const at::Tensor& x) {
          return x.narrow(-2, q0 + i, std::min<int64_t>(64, queries - i))
              .narrow(-1, k0 + j, std::min<int64_t>(64, keys - j));
        };
        if (!tile(visible).any().item<bool>()) continue;
        result.tiles += static_cast<double>(copies);
        result.zero_tiles +=
            static_cast<double>(copies - tile(positive).flatten(2).any(-1).sum().item<int64_t>());
      }
    }
  });
  result.support = positive.sum().item<double>();
  result.rows = visible.any(-1).sum().item<double>() * static_cast<double>(copies);
}

}  // namespace

EntmaxReference entmax_reference(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                 const EntmaxCase& call, const at::Tensor& grad_out) {
  const int64_t group = query.size(1) / key.size(1);
  const auto wide = [&](const at::Tensor& x) { return x.detach().cpu().to(at::kDouble); };
  const at::Tensor q = wide(query), k = wide(key).repeat_interleave(group, 1),
                   v = wide(value).repeat_interleave(group, 1);
  const Pairs pairs{call, q.size(2), k.size(2)};
  at::Tensor visible, distance;
  lay_out(pairs, visible, distance);
  at::Tensor x = q.matmul(k.transpose(-1, -2)) * call.scale;
  if (!call.slopes.empty()) x = x - at::tensor(call.slopes, at::kDouble).view({1, -1, 1, 1}) * distance;
  const at::Tensor z = (x * (call.alpha - 1)).contiguous();

  EntmaxReference result;
  result.tau = at::empty({q.size(0), q.size(1), q.size(2)}, at::kDouble);
  auto tau = result.tau.accessor<double, 3>();
  auto scores = z.accessor<double, 4>();
  auto see = visible.accessor<bool, 2>();
  std::vector<double> row;
  for (int64_t b = 0; b < q.size(0); ++b) {
    for (int64_t h = 0; h < q.size(1); ++h) {
      for (int64_t i = 0; i < q.size(2); ++i) {
        row.clear();
        for (int64_t j = 0; j < k.size(2); ++j) {
          if (see[i][j]) row.push_back(scores[b][h][i][j]);
        }
        tau[b][h][i] = sorted_threshold(row, call.alpha);
      }
    }
  }
  const at::Tensor distances =
      (z - result.tau.unsqueeze(-1))
          .abs()
          .masked_fill(visible.logical_not(), std::numeric_limits<double>::infinity());
  if (distances.numel() > 0) result.edge_distance = distances.min().item<double>();
  const double r = 1 / (call.alpha - 1);
  const at::Tensor u = (z - result.tau.unsqueeze(-1)).clamp_min(0).masked_fill(visible.logical_not(), 0);
  const at::Tensor slope = call.alpha == 2.0 ? u.gt(0).to(at::kDouble) : u.pow(r - 1);
  result.weights = u.pow(r);
  result.out = result.weights.matmul(v);
  count_tiles(pairs, visible, result);
  if (!grad_out.defined()) return result;

  const at::Tensor g = wide(grad_out);
  const at::Tensor dp = g.matmul(v.transpose(-1, -2));
  const at::Tensor sum = slope.sum(-1, true);
  const at::Tensor delta = (slope * dp).sum(-1, true) / at::where(sum.eq(0), 1.0, sum);
  const at::Tensor ds = slope * (dp - delta) * call.scale;
  const auto fold = [&](const at::Tensor& t) {
    return t.view({t.size(0), key.size(1), group, t.size(2), t.size(3)}).sum(2);
  };
  result.grad_query = ds.matmul(k);
  result.grad_key = fold(ds.transpose(-1, -2).matmul(q));
  result.grad_value = fold(result.weights.transpose(-1, -2).matmul(g));
  return result;
}

double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().cpu().to(at::kDouble), y = b.detach().cpu().to(at::kDouble);
  const double size = y.norm().item<double>();
  return (x - y).norm().item<double>() / (size > 0 ? size : 1.0);
}

}  // namespace asplash::test
