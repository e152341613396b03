#pragma once

#include "asplash/checkpoint/checkpoint.h"
#include "asplash/model/language_model.h"
#include "asplash/optim/adamw.h"
#include "asplash/train/setup.h"

namespace asplash::train {

/// Puts model and optimizer into the checkpoint's state and returns the trainer's. Logs which settings
/// changed. Throws asplash::Error where the run would not be the same one: another model, tokenizer, seed,
/// context, document mode or order of the data.
checkpoint::TrainerState resume(const checkpoint::Reader& reader, const Setup& setup,
                                model::LanguageModel& model, optim::AdamW& optimizer);

}  // namespace asplash::train
