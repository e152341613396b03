#pragma once

#include <vector>

namespace asplash::test {

/// tau with sum_j [z_j - tau]_+^(1/(alpha-1)) = 1: for alpha 1.5 and 2 from the sorted z (Peters et al. 2019,
/// algorithm 2; Martins & Astudillo 2016, algorithm 1), else by bisection. +infinity for no z.
double sorted_threshold(std::vector<double> z, double alpha);

}  // namespace asplash::test
