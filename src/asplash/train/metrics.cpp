#include "asplash/train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/log.h"

namespace asplash::train {
namespace {

using Json = nlohmann::ordered_json;

/// The lines of steps up to last_step.
std::string kept_lines(const std::string& content, int64_t last_step) {
  std::istringstream lines(content);
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) continue;
    if (json["step"].get<int64_t>() <= last_step) kept += line + "\n";
  }
  return kept;
}

void remove_later_lines(const std::string& path, int64_t last_step) {
  if (!std::filesystem::exists(path)) return;
  const std::string content = read_file(path);
  const std::string kept = kept_lines(content, last_step);
  if (kept != content) write_file_atomically(path, kept);
}

void put(Json& json, const char* key, const std::optional<double>& value) {
  if (value) json[key] = *value;
}

}  // namespace

const std::vector<std::string>& measured_keys() {
  static const std::vector<std::string> kKeys = {"tokens_per_second", "step_ms", "data_wait_ms",
                                                 "memory_bytes",      "mfu",     "seconds"};
  return kKeys;
}

MetricsFile::MetricsFile(const std::string& path, int64_t last_step, OnFailedWrite on_failure)
    : path_(path), on_failure_(on_failure), fd_(-1) {
  remove_later_lines(path, last_step);
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot write ", path, ": ", std::strerror(errno));
}

MetricsFile::~MetricsFile() { ::close(fd_); }

void MetricsFile::write(const StepRecord& r) {
  Json json = {{"step", r.step},
               {"loss", r.loss},
               {"grad_norm", r.grad_norm},
               {"lr", r.lr},
               {"tokens", r.tokens},
               {"tokens_per_second", r.tokens_per_second},
               {"step_ms", r.step_ms},
               {"data_wait_ms", r.data_wait_ms},
               {"epoch", r.position.epoch},
               {"sample", r.position.sample},
               {"skipped", r.skipped},
               {"skipped_steps", r.skipped_steps},
               {"spike", r.spike},
               {"memory_bytes", r.memory_bytes}};
  put(json, "mfu", r.mfu);
  put(json, "zero_tile_share", r.zero_tile_share);
  put(json, "mean_support", r.mean_support);
  put(json, "mean_passes", r.mean_passes);
  write_line(json.dump());
}

void MetricsFile::write(const EvaluationRecord& r) {
  const Json json = {{"step", r.step},
                     {"event", "evaluation"},
                     {"loss", r.loss},
                     {"perplexity", r.perplexity},
                     {"target_tokens", r.target_tokens},
                     {"seconds", r.seconds},
                     {"best", r.best}};
  write_line(json.dump());
}

void MetricsFile::write_line(const std::string& line) {
  waiting_ += line + "\n";
  const int reason = write_waiting();
  if (reason == 0) {
    if (std::exchange(failing_, false)) log::info(path_ + " can be written again; no line was lost");
    return;
  }
  const std::string problem = str("cannot write ", path_, ": ", std::strerror(reason));
  if (on_failure_ == OnFailedWrite::stop) fail("training stopped: ", problem);
  if (waiting_.size() > kMaxWaitingBytes) fail("training stopped: ", problem, ", for too many lines");
  if (!std::exchange(failing_, true)) {
    log::warning(problem + "; its lines wait in memory (train.on_failed_write)");
  }
}

int MetricsFile::write_waiting() {
  while (!waiting_.empty()) {
    const ssize_t written = ::write(fd_, waiting_.data(), waiting_.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    waiting_.erase(0, static_cast<size_t>(written));
  }
  return 0;
}

bool MetricsFile::is_complete() { return write_waiting() == 0; }

void MetricsFile::sync() const {
  // A pipe, or /dev/null, cannot be synced and says EINVAL.
  if (::fsync(fd_) != 0 && errno != EINVAL) fail("cannot write ", path_, ": ", std::strerror(errno));
}

void MetricsFile::finish() {
  const int reason = write_waiting();
  if (reason != 0) {
    fail("the last lines of ", path_, " (", waiting_.size(),
         " bytes) could not be written: ", std::strerror(reason));
  }
}

}  // namespace asplash::train
