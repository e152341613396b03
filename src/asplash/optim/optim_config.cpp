#include "asplash/optim/optim_config.h"

#include "asplash/base/error.h"

namespace asplash::optim {
namespace {

using NamedSchedules = std::vector<std::pair<Schedule, const char*>>;

const NamedSchedules& schedules_by_name() {
  static const NamedSchedules kNames = {{Schedule::cosine, "cosine"},
                                        {Schedule::linear, "linear"},
                                        {Schedule::warmup_stable_decay, "warmup_stable_decay"},
                                        {Schedule::constant, "constant"}};
  return kNames;
}

}  // namespace

const char* name_of(Schedule schedule) { return config::name_in(schedules_by_name(), schedule); }

void OptimConfig::describe(config::Fields& f) {
  f.field("lr", lr, "peak learning rate", config::positive());
  f.choice("schedule", schedule, schedules_by_name(), "shape of the learning rate after warm-up");
  f.only_where(schedule != Schedule::constant, "lr_min_ratio", "schedule",
               "cosine, linear or warmup_stable_decay");
  f.field("lr_min_ratio", lr_min_ratio,
          "floor of the learning rate as a share of lr, reached at the last step", config::between(0, 1));
  f.field("warmup_steps", warmup_steps, "steps of linear warm-up; the peak is reached at this step",
          config::at_least(0));
  f.only_where(schedule == Schedule::warmup_stable_decay, "decay_share", "schedule", "warmup_stable_decay");
  f.field("decay_share", decay_share, "warmup_stable_decay: share of the steps, at the end, that decay",
          config::between(0, 1));
  f.field("beta1", beta1, "decay rate of the first moment", {0, 1, false, true});
  f.field("beta2", beta2, "decay rate of the second moment", {0, 1, false, true});
  f.field("eps", eps, "added to the root of the second moment", config::positive());
  f.field("weight_decay", weight_decay, "decoupled weight decay, times the learning rate",
          config::at_least(0));
  f.field("decay_embeddings", decay_embeddings, "weight decay also on the token embeddings");
  f.field("decay_norms", decay_norms, "weight decay also on the norms' scales");
  f.field("clip_norm", clip_norm, "gradients are scaled down to this global norm; 0: no clipping",
          config::at_least(0));
  f.check(schedule != Schedule::warmup_stable_decay || decay_share > 0, "decay_share",
          "must be above 0 for the schedule warmup_stable_decay (use constant for no decay)");
}

}  // namespace asplash::optim
