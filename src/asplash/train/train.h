#pragma once

#include <string>
#include <vector>

namespace asplash::train {

struct TrainOptions {
  std::string config_file;
  std::vector<std::string> overrides;  ///< "key=value"
  std::string resume = "auto";         ///< auto, none, or a checkpoint
  bool overwrite = false;              ///< forget what the run folder holds
  bool allow_changes = false;          ///< resume under settings that make it another run
  bool print_config = false;           ///< print the resolved configuration and stop
  bool dry_run = false;                ///< print parameters, flops, memory and steps, and stop
};

/// What asplash-train does, start to end. Returns the exit status (0: trained to the end or stopped by a
/// signal after a checkpoint). Throws asplash::Error.
int run(const TrainOptions& options);

}  // namespace asplash::train
