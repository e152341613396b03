#pragma once

#include <string>

#include "asplash/checkpoint/checkpoint.h"

namespace asplash::checkpoint {

/// trainer_state.json and back; parsing throws asplash::Error naming `path` and what is wrong.
std::string format_trainer_state(const TrainerState& state);
TrainerState parse_trainer_state(const std::string& path, const std::string& text);

}  // namespace asplash::checkpoint
