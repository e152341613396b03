#include "asplash/checkpoint/trainer_state.h"

#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/text.h"

namespace asplash::checkpoint {

using Json = nlohmann::json;

namespace {

/// Keys that the first checkpoints did not have.
void parse_later_keys(const Json& json, TrainerState& state) {
  state.skipped_in_a_row = json.value("skipped_in_a_row", int64_t{0});
  state.best_step = json.value("best_step", int64_t{-1});
  state.data = json.value("data", "");
  state.precision = json.value("precision", "");
  if (!json.contains("loss_level")) return;
  const Json& level = json["loss_level"];
  state.loss_level = {level.at("mean").get<double>(), level.at("deviation").get<double>(),
                      level.at("steps").get<int64_t>()};
}

}  // namespace

std::string format_trainer_state(const TrainerState& state) {
  Json json = {{"step", state.step},
               {"tokens", state.tokens},
               {"skipped_steps", state.skipped_steps},
               {"skipped_in_a_row", state.skipped_in_a_row},
               {"position", {{"epoch", state.position.epoch}, {"sample", state.position.sample}}},
               {"seed", state.seed},
               {"loss_level",
                {{"mean", state.loss_level.mean},
                 {"deviation", state.loss_level.deviation},
                 {"steps", state.loss_level.steps}}},
               {"data", state.data},
               {"precision", state.precision}};
  if (state.best_validation_loss) {
    json["best_validation_loss"] = *state.best_validation_loss;
    json["best_step"] = state.best_step;
  }
  return json.dump(2) + "\n";
}

TrainerState parse_trainer_state(const std::string& path, const std::string& text) {
  try {
    const Json json = Json::parse(text);
    TrainerState state;
    state.step = json.at("step").get<int64_t>();
    state.tokens = json.at("tokens").get<int64_t>();
    state.skipped_steps = json.at("skipped_steps").get<int64_t>();
    state.position.epoch = json.at("position").at("epoch").get<int64_t>();
    state.position.sample = json.at("position").at("sample").get<int64_t>();
    state.seed = json.at("seed").get<uint64_t>();
    if (json.contains("best_validation_loss"))
      state.best_validation_loss = json["best_validation_loss"].get<double>();
    parse_later_keys(json, state);
    if (state.step < 0 || state.tokens < 0 || state.position.epoch < 0 || state.position.sample < 0 ||
        state.skipped_steps < 0 || state.skipped_in_a_row < 0 || state.loss_level.steps < 0) {
      fail(path, ": counters and position must not be negative");
    }
    return state;
  } catch (const Json::exception& error) {
    fail(path, ": ", json_reason(error));
  }
}

}  // namespace asplash::checkpoint
