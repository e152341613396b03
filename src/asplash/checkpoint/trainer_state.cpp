#include "asplash/checkpoint/trainer_state.h"

#include <nlohmann/json.hpp>

#include "asplash/base/error.h"

namespace asplash::checkpoint {

using Json = nlohmann::json;

std::string format_trainer_state(const TrainerState& state) {
  Json json = {{"step", state.step},
               {"tokens", state.tokens},
               {"skipped_steps", state.skipped_steps},
               {"position", {{"epoch", state.position.epoch}, {"sample", state.position.sample}}},
               {"seed", state.seed}};
  if (state.best_validation_loss) json["best_validation_loss"] = *state.best_validation_loss;
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
    if (state.step < 0 || state.tokens < 0 || state.position.epoch < 0 || state.position.sample < 0) {
      fail(path, ": step, tokens and position must not be negative");
    }
    return state;
  } catch (const Json::exception& error) {
    fail(path, ": ", error.what());
  }
}

}  // namespace asplash::checkpoint
