#include "asplash/train/run_folder.h"

#include <filesystem>

#include "asplash/base/error.h"
#include "asplash/base/log.h"
#include "asplash/base/text.h"
#include "asplash/checkpoint/checkpoint.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

bool holds_checkpoints(const std::string& run_folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_folder + "/checkpoints", error)) {
    if (entry.path().extension() != ".tmp") return true;
  }
  return false;
}

Start newest_of(const std::string& run_folder) {
  checkpoint::Listing found = checkpoint::newest(run_folder);
  Start start;
  start.passed_over = std::move(found.passed_over);
  if (!found.complete.empty()) {
    start.checkpoint = found.complete.front();
  } else if (holds_checkpoints(run_folder)) {
    fail("run folder ", run_folder, " holds no whole checkpoint to resume from (",
         join(start.passed_over, "; "),
         "); start anew with --resume none --overwrite, or in another train.output");
  }
  return start;
}

void refuse_later_checkpoints(const std::string& run_folder, const std::string& checkpoint) {
  const int64_t step = checkpoint::Reader(checkpoint).state().step;
  const checkpoint::Listing found = checkpoint::newest(run_folder);
  if (found.complete.empty() || checkpoint::Reader(found.complete.front()).state().step <= step) return;
  fail("--resume ", checkpoint, " is step ", step, ", but the run folder holds the later ",
       found.complete.front(), "; remove that, or set train.output to another folder");
}

}  // namespace

Start choose_start(const std::string& run_folder, const std::string& resume, bool overwrite) {
  if (overwrite && resume != "none") {
    fail("--overwrite forgets what the run folder ", run_folder, " holds: use it with --resume none");
  }
  if (resume == "auto") return newest_of(run_folder);
  if (resume == "none") {
    if (!overwrite && holds_checkpoints(run_folder)) {
      fail("--resume none: run folder ", run_folder,
           " already holds checkpoints; go on with --resume auto, forget them ",
           "with --overwrite, or set train.output to another folder");
    }
    return {};
  }
  std::error_code error;
  if (!fs::is_directory(resume, error)) {
    fail("--resume: checkpoint ", resume,
         ": no such folder (valid: auto, none, or the folder of a checkpoint or a run)");
  }
  Start start;
  start.checkpoint = checkpoint::Reader(resume).path();
  refuse_later_checkpoints(run_folder, start.checkpoint);
  return start;
}

void prepare_run_folder(const std::string& run_folder, bool overwrite) {
  std::error_code error;
  if (overwrite) {
    std::vector<std::string> left = log::older_files(run_folder + "/train.log");
    for (const char* name : {"checkpoints", "metrics.jsonl", "train.log", "config.yaml"}) {
      left.push_back(run_folder + "/" + name);
    }
    for (const std::string& path : left) {
      fs::remove_all(path, error);
      if (error) fail("cannot remove ", path, ": ", error.message());
    }
  }
  fs::create_directories(run_folder, error);
  if (error) fail("cannot create the run folder ", run_folder, ": ", error.message());
}

}  // namespace asplash::train
