#include "asplash/optim/optim_config.h"

#include <gtest/gtest.h>

#include "asplash/config/config.h"

namespace asplash::optim {
namespace {

std::string problems_of(const std::string& yaml) {
  OptimConfig config;
  try {
    config::load_text(yaml, "test.yaml", {}, config::describing(config));
  } catch (const config::ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(OptimConfig, ReadsEveryField) {
  OptimConfig config;
  config::load_text(
      "lr: 2e-3\nlr_min_ratio: 0\nschedule: warmup_stable_decay\nwarmup_steps: 0\ndecay_share: 0.5\nbeta1: "
      "0\n"
      "beta2: 0.99\neps: 1e-10\nweight_decay: 0\ndecay_embeddings: false\ndecay_norms: true\nclip_norm: 0\n",
      "test.yaml", {}, config::describing(config));
  EXPECT_EQ(config.lr, 2e-3);
  EXPECT_EQ(config.schedule, Schedule::warmup_stable_decay);
  EXPECT_EQ(config.beta2, 0.99);
  EXPECT_EQ(config.clip_norm, 0);
  EXPECT_FALSE(config.decay_embeddings);
  EXPECT_TRUE(config.decay_norms);
}

TEST(OptimConfig, RefusesValuesOutsideTheirRanges) {
  for (const char* yaml : {"lr: 0", "lr: -1", "lr: .nan", "lr_min_ratio: 1.1", "warmup_steps: -1", "beta1: 1",
                           "beta2: 1", "eps: 0", "weight_decay: -0.1", "clip_norm: -1", "schedule: cosin",
                           "schedule: warmup_stable_decay\ndecay_share: 0"}) {
    EXPECT_NE(problems_of(yaml), "") << yaml;
  }
}

TEST(OptimConfig, RefusesWhatTheScheduleDoesNotHave) {
  EXPECT_EQ(problems_of("schedule: cosine\ndecay_share: 0.2"),
            "test.yaml:2: decay_share: is given, but not used: it needs schedule: warmup_stable_decay");
  EXPECT_NE(problems_of("decay_share: 0.2"), "");
  EXPECT_NE(problems_of("schedule: constant\nlr_min_ratio: 0.1"), "");
  EXPECT_EQ(problems_of("schedule: linear\nlr_min_ratio: 0.1"), "");
}

TEST(OptimConfig, NamesFileLineAndKey) {
  EXPECT_NE(problems_of("eps: 1e-8\nbeta2: 1.5").find("test.yaml:2: beta2"), std::string::npos)
      << problems_of("eps: 1e-8\nbeta2: 1.5");
}

}  // namespace
}  // namespace asplash::optim
