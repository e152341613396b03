#pragma once

#include <string>
#include <vector>

namespace asplash::train {

/// Where a run begins.
struct Start {
  std::string checkpoint;  ///< folder of the whole checkpoint to go on from; "": from the beginning
  std::vector<std::string> passed_over;  ///< newer ones that are not whole, with the reason
};

/// Decides where the run in `run_folder` begins; changes nothing on disk.
///   resume = auto   the newest whole checkpoint of the run folder, or the beginning where it holds none at
///   all resume = none   the beginning; the folder must not hold checkpoints unless overwrite resume = PATH
///   that checkpoint, or the newest whole one of that run folder; the run folder must not hold
///                   checkpoints of later steps
/// Throws asplash::Error saying what stands in the way and what would be valid.
Start choose_start(const std::string& run_folder, const std::string& resume, bool overwrite);

/// Makes the run folder. With overwrite it first forgets what an earlier run left: checkpoints, metrics, log,
/// configuration, and nothing else.
void prepare_run_folder(const std::string& run_folder, bool overwrite);

}  // namespace asplash::train
