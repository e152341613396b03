#pragma once

#include <cmath>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/attention_reference.h"

/// The problems on which kernels are held to their definition: one table for all element types.
namespace asplash::test {

struct AttentionCase {
  std::string name;
  AttentionProblem problem;
  double spread = 2;
  std::function<void(const AttentionProblem&, AttentionInputs&)> edit = nullptr;
  double condition = 1;  ///< factor on the tolerance of the gradients
};

inline void PrintTo(const AttentionCase& c, std::ostream* out) { *out << c.name; }

/// As many queries as keys; rectangle: heads of 64, two of them.
AttentionProblem square(int tokens, int head_dim = 32, int heads = 2);
AttentionProblem rectangle(int q_tokens, int k_tokens, bool causal = true);

template <class F>
AttentionProblem with(AttentionProblem p, F change) {
  change(p);
  return p;
}

/// The token's numbers in [batch * heads, tokens, head_dim].
float* token_of(const AttentionProblem& p, std::vector<float>& numbers, int tokens, int head, int token);

std::vector<AttentionCase> all_attention_cases();

/// The case's inputs, rounded to the type.
AttentionInputs inputs_of(const AttentionCase& c, kernels::ElementType type, unsigned seed = 1);

}  // namespace asplash::test
