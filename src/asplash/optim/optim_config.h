#pragma once

#include <cstdint>

#include "asplash/config/fields.h"

namespace asplash::optim {

enum class Schedule { cosine, linear, warmup_stable_decay, constant };
const char* name_of(Schedule schedule);

struct OptimConfig {
  double lr = 1e-3;           ///< peak
  double lr_min_ratio = 0.1;  ///< floor as a share of lr, reached at the last step
  Schedule schedule = Schedule::cosine;
  int64_t warmup_steps = 100;  ///< linear from lr / warmup_steps
  double decay_share = 0.2;    ///< warmup_stable_decay: share of the steps that decay, at the end
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  bool decay_embeddings = true;
  bool decay_norms = false;
  double clip_norm = 1.0;  ///< global gradient norm; 0: no clipping

  void describe(config::Fields& f);
};

}  // namespace asplash::optim
