#pragma once

#include <string>

#include "asplash/train/setup.h"

namespace asplash::train {

/// What a run will do, for start-up and --dry-run: run, device, data, model; parameters by part; estimated
/// memory by segment.
std::string start_tables(const Setup& setup);

}  // namespace asplash::train
