#include "kernels/attention_cases.h"

#include <algorithm>
#include <limits>

namespace asplash::test {

using kernels::ElementType;

AttentionProblem square(int tokens, int head_dim, int heads) {
  AttentionProblem p;
  p.heads = p.kv_heads = heads;
  p.q_tokens = p.k_tokens = tokens;
  p.head_dim = head_dim;
  p.scale = 1 / std::sqrt(static_cast<float>(head_dim));
  return p;
}

AttentionProblem rectangle(int q_tokens, int k_tokens, bool causal) {
  AttentionProblem p = square(q_tokens, 64);
  p.k_tokens = k_tokens;
  p.causal = causal;
  return p;
}

float* token_of(const AttentionProblem& p, std::vector<float>& numbers, int tokens, int head, int token) {
  return numbers.data() +
         (static_cast<size_t>(head) * static_cast<size_t>(tokens) + static_cast<size_t>(token)) *
             static_cast<size_t>(p.head_dim);
}

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Queries are the first unit vector, keys `score(j)` times it: at scale 1 the scores are score(j).
std::function<void(const AttentionProblem&, AttentionInputs&)> scores(std::function<double(int)> score) {
  return [score](const AttentionProblem& p, AttentionInputs& in) {
    std::fill(in.query.begin(), in.query.end(), 0.0F);
    std::fill(in.key.begin(), in.key.end(), 0.0F);
    for (size_t at = 0; at < in.query.size(); at += static_cast<size_t>(p.head_dim)) in.query[at] = 1;
    for (int head = 0; head < p.batch * p.kv_heads; ++head) {
      for (int j = 0; j < p.k_tokens; ++j) {
        *token_of(p, in.key, p.k_tokens, head, j) = static_cast<float>(score(j));
      }
    }
  };
}

void add_shapes(std::vector<AttentionCase>& cases) {
  for (const int tokens : {1, 2, 63, 64, 65, 127, 128, 129, 191, 193, 321, 600}) {
    cases.push_back({"tokens_" + std::to_string(tokens), square(tokens)});
  }
  for (const int head_dim : {32, 64, 96, 128, 256}) {
    cases.push_back({"head_dim_" + std::to_string(head_dim), square(200, head_dim)});
    cases.push_back({"head_dim_" + std::to_string(head_dim) + "_dense", square(130, head_dim), 0.05});
  }
  for (const int q_tokens : {1, 5, 64, 100}) {
    for (const int k_tokens : {1, 37, 130, 300}) {
      const std::string name = std::to_string(q_tokens) + "_of_" + std::to_string(k_tokens);
      cases.push_back({"causal_" + name, rectangle(q_tokens, k_tokens)});
      cases.push_back({"full_" + name, rectangle(q_tokens, k_tokens, false)});
    }
  }
  cases.push_back({"no_keys", rectangle(70, 0)});
  cases.push_back({"no_queries", rectangle(0, 70)});
  cases.push_back({"long_decode", rectangle(1, 5000)});
  // Row bits for 1, 2, 4 and 8 rows, and more rows than the backward lists in one go.
  for (const auto& [q_tokens, k_tokens] :
       {std::pair(70, 32768), {70, 32769}, {67, 65537}, {40, 131073}, {66000, 70}}) {
    const auto long_problem = with(rectangle(q_tokens, k_tokens, k_tokens > q_tokens), [](auto& p) {
      p.heads = p.kv_heads = 1;
      p.head_dim = 32;
      p.scale = 0.177F;
    });
    cases.push_back({"long_" + std::to_string(q_tokens) + "_of_" + std::to_string(k_tokens), long_problem});
  }
  cases.push_back({"batch_3", with(square(150), [](auto& p) { p.batch = 3; })});
  // More rows than have lists at a time.
  cases.push_back({"batch_64_of_64_heads", with(rectangle(70, 9, false), [](auto& p) {
                     p.heads = p.kv_heads = p.batch = 64;
                     p.head_dim = 32;
                   })});
  cases.push_back({"batch_300", with(square(3, 32, 1), [](auto& p) { p.batch = 300; })});
  for (const int group : {2, 4, 7, 8}) {
    cases.push_back({"group_" + std::to_string(group), with(square(140, 32, 2 * group), [](auto& p) {
                       p.kv_heads = 2;
                       p.batch = 2;
                     })});
  }
  cases.push_back({"one_kv_head", with(square(140, 64, 3), [](auto& p) { p.kv_heads = 1; })});
}

void add_options(std::vector<AttentionCase>& cases) {
  for (const float alpha : {1.05F, 1.25F, 1.5F, 1.75F, 2.0F}) {
    const auto problem = [&](int tokens, bool causal) {
      return with(square(tokens, 64), [&](auto& p) {
        p.alpha = alpha;
        p.causal = causal;
      });
    };
    const std::string name = "alpha_" + std::to_string(static_cast<int>(std::lround(100 * alpha)));
    cases.push_back({name, problem(260, true)});
    cases.push_back({name + "_sparse", problem(260, true), 12});
    cases.push_back({name + "_dense", problem(190, false), 0.05});
  }
  const auto slopes = [](auto& p) { p.slopes = {1, 0.25F, 0.01F, 0}; };
  cases.push_back({"alibi", with(square(400, 32, 4), slopes)});
  cases.push_back(
      {"alibi_decode", with(with(rectangle(3, 400), [](auto& p) { p.heads = p.kv_heads = 4; }), slopes)});
  cases.push_back({"alibi_full", with(with(square(260, 64, 4), slopes), [](auto& p) { p.causal = false; })});
  cases.push_back({"scale_0", with(square(200), [](auto& p) { p.scale = 0; })});
  cases.push_back({"scale_negative", with(square(200), [](auto& p) { p.scale = -0.3F; })});
  cases.push_back({"scale_0_alibi", with(with(square(200, 32, 4), slopes), [](auto& p) { p.scale = 0; })});
  const auto documents = [](std::vector<int32_t> q, std::vector<int32_t> k) {
    return [q, k](auto& p) {
      p.cu_q = q;
      p.cu_k = k;
      p.q_tokens = q.back();
      p.k_tokens = k.back();
    };
  };
  const std::vector<int32_t> edges = {0, 1, 1, 64, 128, 193, 193, 194, 320, 450};
  for (const bool causal : {true, false}) {
    const std::string kind = causal ? "causal" : "full";
    const auto base = with(square(1, 32, 4), [&](auto& p) {
      p.causal = causal;
      p.kv_heads = 2;
    });
    cases.push_back({"documents_" + kind, with(base, documents(edges, edges))});
    cases.push_back({"documents_alibi_" + kind, with(with(base, documents(edges, edges)), slopes)});
    cases.push_back(
        {"documents_of_two_lengths_" + kind,
         with(base, documents({0, 10, 10, 80, 90, 218, 219, 219}, {0, 200, 264, 264, 265, 330, 460, 461}))});
    cases.push_back({"documents_empty_" + kind, with(base, documents({0, 0, 0, 5, 5}, {0, 0, 7, 7, 7}))});
    cases.push_back({"documents_one_" + kind, with(base, documents({0, 100}, {0, 100}))});
    cases.push_back({"documents_without_keys_" + kind, with(base, documents({0, 100}, {0, 0}))});
  }
  std::vector<int32_t> ones(131);
  for (size_t i = 0; i < ones.size(); ++i) ones[i] = static_cast<int32_t>(i);
  cases.push_back({"documents_of_one_token", with(square(1), documents(ones, ones))});
}

void add_scores(std::vector<AttentionCase>& cases) {
  const auto plain = [](int tokens, bool causal = true) {
    return with(square(tokens, 32, 1), [&](auto& p) {
      p.scale = 1;
      p.causal = causal;
    });
  };
  cases.push_back({"scores_equal", plain(300), 1, scores([](int) { return 2; })});
  cases.push_back({"scores_ascending", plain(300), 1, scores([](int j) { return j / 16.0; })});
  cases.push_back({"scores_descending", plain(300), 1, scores([](int j) { return -j / 64.0; })});
  cases.push_back(
      {"scores_one_dominates", plain(300), 1, scores([](int j) { return j == 77 ? 64 : j % 3; })});
  cases.push_back({"scores_sink", plain(300), 1, scores([](int j) { return j == 0 ? 1 : (j % 7) / 8.0; })});
  cases.push_back(
      {"scores_tied_at_threshold", plain(300, false), 1, scores([](int j) { return j < 4 ? 1 : 0; })});
  // A bound that rises all the way: every key is found, lists are compacted again and again.
  const auto rising = [](double step) { return scores([step](int j) { return step * j; }); };
  const auto many_keys = [](bool causal) {
    return with(rectangle(70, 5000, causal), [](auto& p) {
      p.heads = p.kv_heads = 1;
      p.scale = 1;
    });
  };
  cases.push_back({"scores_ascending_long", many_keys(false), 1, rising(1 / 64.0)});
  cases.push_back({"scores_descending_long", many_keys(true), 1, rising(-1 / 64.0)});
  cases.push_back({"scores_large_and_equal", plain(300), 1, scores([](int) { return 8192; })});
  cases.push_back({"scores_thousands", with(square(300, 64), [](auto& p) { p.batch = 2; }), 1000});
  cases.push_back({"scores_near_equal", square(500), 0.001});
  // Around what there is room for in the support.
  for (const double spread : {0.25, 0.3, 0.35, 0.4})
    cases.push_back(
        {"scores_of_spread_" + std::to_string(static_cast<int>(spread * 100)), square(900, 64, 2), spread});
  // Row tiles whose support is too large for lists among others: the backward of a head goes both ways.
  cases.push_back({"scores_equal_for_some", with(square(900, 64, 4), [](auto& p) { p.kv_heads = 2; }), 2,
                   [](const auto& p, auto& in) {
                     for (int head = 0; head < p.heads; head += 3) {
                       for (int token = 600; token < 700; ++token) {
                         float* const query = token_of(p, in.query, p.q_tokens, head, token);
                         std::fill(query, query + p.head_dim, 0.0F);
                       }
                     }
                   }});
  // Thousands of equal keys within 1 of the largest score, by less than a place of a histogram's bin: whether
  // an estimate falls above or below them decides over some percent of the mass.
  for (int i = 0; i < 8; ++i) {
    const auto crowd = with(rectangle(70, 5000, false), [i](auto& p) {
      p.heads = p.kv_heads = 1;
      p.scale = 0.9985F + 0.0007F * static_cast<float>(i);
    });
    cases.push_back({"scores_crowd_" + std::to_string(i), crowd, 1,
                     scores([](int j) { return j == 700 ? 0 : -1.9921875; }), 8});
  }
}

void add_broken(std::vector<AttentionCase>& cases) {
  for (const float broken : {kNan, kInfinity, -kInfinity}) {
    const std::string name = std::isnan(broken) ? "nan" : broken > 0 ? "inf" : "minus_inf";
    const auto problem = with(square(230, 64, 2), [](auto& p) { p.kv_heads = 1; });
    cases.push_back({"query_" + name, problem, 2, [broken](const auto& p, auto& in) {
                       token_of(p, in.query, p.q_tokens, 1, 70)[3] = broken;
                     }});
    cases.push_back({"key_" + name, problem, 2, [broken](const auto& p, auto& in) {
                       token_of(p, in.key, p.k_tokens, 0, 150)[63] = broken;
                     }});
    cases.push_back({"value_" + name, problem, 2, [broken](const auto& p, auto& in) {
                       token_of(p, in.value, p.k_tokens, 0, 10)[40] = broken;
                       token_of(p, in.value, p.k_tokens, 0, 41)[0] = broken;
                     }});
    cases.push_back({"wide_value_" + name, square(140, 256, 1), 2, [broken](const auto& p, auto& in) {
                       token_of(p, in.value, p.k_tokens, 0, 30)[200] = broken;
                       token_of(p, in.value, p.k_tokens, 0, 90)[100] = broken;
                     }});
    cases.push_back({"document_" + name,
                     with(problem,
                          [](auto& p) {
                            p.cu_q = p.cu_k = {0, 50, 120, 230};
                          }),
                     2, [broken](const auto& p, auto& in) {
                       token_of(p, in.key, p.k_tokens, 0, 60)[1] = broken;
                       token_of(p, in.value, p.k_tokens, 0, 119)[1] = broken;
                       token_of(p, in.query, p.q_tokens, 0, 120)[1] = broken;
                     }});
  }
  cases.push_back({"key_nan_far", with(square(300, 64, 1), [](auto& p) { p.slopes = {2}; }), 1,
                   [](const auto& p, auto& in) { token_of(p, in.key, p.k_tokens, 0, 20)[1] = kNan; }});
  cases.push_back({"all_nan", square(100), 1, [](const auto&, auto& in) {
                     for (auto* numbers : {&in.query, &in.key, &in.value}) {
                       std::fill(numbers->begin(), numbers->end(), kNan);
                     }
                   }});
  // Rows that see no key, and what their query holds does not matter.
  cases.push_back({"query_nan_without_keys", rectangle(100, 37), 2,
                   [](const auto& p, auto& in) { token_of(p, in.query, p.q_tokens, 0, 60)[3] = kNan; }});
}

}  // namespace

std::vector<AttentionCase> all_attention_cases() {
  std::vector<AttentionCase> cases;
  add_shapes(cases);
  add_options(cases);
  add_scores(cases);
  add_broken(cases);
  return cases;
}

AttentionInputs inputs_of(const AttentionCase& c, ElementType type, unsigned seed) {
  AttentionInputs inputs = normal_inputs(c.problem, c.spread, seed);
  if (c.edit) c.edit(c.problem, inputs);
  round_to(type, inputs);
  return inputs;
}

}  // namespace asplash::test
