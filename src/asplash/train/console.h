#pragma once

#include <string>

#include "asplash/train/metrics.h"

namespace asplash::train {

/// One aligned line for the console:
/// step  12/400 | loss 6.1234 | norm  0.873 | lr 9.81e-04 | 12,345 tok/s | MFU n/a | wait 0.1 ms | mem 1.2
/// GiB and, with statistics, the share of zero tiles and the mean support ("-" for a step that did not
/// count), and the mean number of passes where they are counted.
std::string step_line(const StepRecord& record, int64_t steps, bool statistics);
std::string evaluation_line(const EvaluationRecord& record);

}  // namespace asplash::train
