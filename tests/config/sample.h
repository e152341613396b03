#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/config/config.h"

/// A configuration with every kind of field.
namespace asplash::config::testing {

enum class Shape { cosine, linear, constant };

inline std::vector<std::pair<Shape, const char*>> shape_names() {
  return {{Shape::cosine, "cosine"}, {Shape::linear, "linear"}, {Shape::constant, "constant"}};
}

struct Inner {
  double share = 0.5;
  std::vector<double> slopes;

  void describe(Fields& f) {
    f.field("share", share, "share of the heads", between(0, 1));
    f.field("slopes", slopes, "one per head", positive());
  }
};

struct Optim {
  double lr = 1e-3;
  double lr_min = 1e-4;
  double alpha = 1.5;
  Shape schedule = Shape::cosine;
  Inner inner;

  void describe(Fields& f) {
    f.field("lr", lr, "peak learning rate", positive());
    f.field("lr_min", lr_min, "floor", at_least(0));
    f.field("alpha", alpha, "of entmax", Range{1, 2, true, false});
    f.choice("schedule", schedule, shape_names(), "shape of the learning rate");
    f.section("inner", inner, "a section in a section");
    f.check(lr_min <= lr, "lr_min", str("must be at most lr (", lr_min, " against ", lr, ")"));
  }
};

struct Train {
  int64_t steps = 100;
  int64_t batch = 8;
  bool shuffle = true;
  std::string output = "runs/default";

  void describe(Fields& f) {
    f.field("steps", steps, "optimizer steps", at_least(1));
    f.field("batch", batch, "sequences of a step");
    f.field("shuffle", shuffle, "shuffle the windows");
    f.field("output", output, "run folder");
  }
};

struct Sample {
  Train train;
  Optim optim;
  std::vector<int64_t> contexts = {512, 1024};
  std::vector<std::string> names;

  void describe(Fields& f) {
    f.section("train", train, "the run");
    f.section("optim", optim, "the optimizer");
    f.field("contexts", contexts, "lengths", between(1, 65536));
    f.field("names", names, "any names");
    f.check(train.steps != 13, "train.steps", "13 is refused");
    f.check(names.size() < 3, "names", str("must be fewer than 3 (", names.size(), ")"));
  }
};

/// What load_text() throws; empty where it throws nothing.
inline std::string message_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  Sample sample;
  try {
    load_text(text, "x.yaml", overrides, describing(sample));
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

inline Sample sample_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  Sample sample;
  load_text(text, "x.yaml", overrides, describing(sample));
  return sample;
}

}  // namespace asplash::config::testing
