#pragma once

#include <cstdint>

#include "asplash/optim/optim_config.h"

namespace asplash::optim {

/// Learning rate of optimizer step `step` of `steps`, both counted from 1. Linear from lr / warmup_steps up
/// to lr at step warmup_steps (the first step where there is no warm-up), then the schedule's shape down to
/// exactly lr * lr_min_ratio at step `steps`:
///   cosine               half a cosine (Loshchilov & Hutter, arXiv 1608.03983)
///   linear               a straight line
///   warmup_stable_decay  lr, then a straight line over the last decay_share of the steps (arXiv 2405.18392)
///   constant             lr throughout; lr_min_ratio is not used
/// Steps past the last one keep its value. Pure.
double learning_rate(const OptimConfig& config, int64_t step, int64_t steps);

}  // namespace asplash::optim
