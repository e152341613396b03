#include "asplash/train/metrics.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "asplash/base/error.h"
#include "asplash/base/files.h"

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

MetricsFile::MetricsFile(const std::string& path, int64_t last_step)
    : path_(path), file_(nullptr, std::fclose) {
  remove_later_lines(path, last_step);
  file_.reset(std::fopen(path.c_str(), "ae"));
  if (!file_) fail("cannot write ", path, ": ", std::strerror(errno));
}

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
               {"memory_bytes", r.memory_bytes}};
  put(json, "mfu", r.mfu);
  put(json, "zero_tile_share", r.zero_tile_share);
  put(json, "mean_support", r.mean_support);
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
  const std::string text = line + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0) {
    fail("cannot write ", path_, ": ", std::strerror(errno));
  }
}

}  // namespace asplash::train
