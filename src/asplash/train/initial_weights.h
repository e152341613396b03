#pragma once

#include <string>
#include <vector>

#include "asplash/model/language_model.h"
#include "asplash/train/setup.h"

namespace asplash::train {

/// Puts the weights of another checkpoint (`path`: its folder, or a run folder's newest) into the model of a
/// new run, whose optimizer, schedule and data begin anew. Returns lines for the log: where the weights are
/// from, and each model setting that differs from what they were trained with (softmax weights may go on with
/// entmax). Throws asplash::Error where tensors do not fit the model, by name, or the weights belong to
/// another tokenizer than the data.
std::vector<std::string> load_initial_weights(const std::string& path, const Setup& setup,
                                              model::LanguageModel& model);

}  // namespace asplash::train
