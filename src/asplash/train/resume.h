#pragma once

#include "asplash/checkpoint/checkpoint.h"
#include "asplash/model/language_model.h"
#include "asplash/optim/adamw.h"
#include "asplash/train/setup.h"

namespace asplash::train {

/// Puts model and optimizer into the checkpoint's state and returns the trainer's.
///
/// Each setting that differs from the checkpoint's is logged with both values. One that changes what is
/// trained (model, optimizer, data by its content, its order, seed, batch, precision) is refused unless
/// allow_changes; what only changes how a run is watched, stored or computed is not. A longer train.steps is
/// allowed, too: it is how a run goes on. Another validation makes best_validation_loss mean nothing: it
/// starts anew. Throws asplash::Error, also for another tokenizer, and for weights that do not fit or are not
/// finite.
checkpoint::TrainerState resume(const checkpoint::Reader& reader, const Setup& setup, bool allow_changes,
                                model::LanguageModel& model, optim::AdamW& optimizer);

}  // namespace asplash::train
