#include "asplash/checkpoint/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fcntl.h>
#include <stdio.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/log.h"
#include "asplash/checkpoint/finite.h"
#include "asplash/checkpoint/layout.h"
#include "asplash/checkpoint/manifest.h"
#include "asplash/checkpoint/trainer_state.h"

namespace asplash::checkpoint {
namespace {

namespace fs = std::filesystem;

/// NAME.tmp while it is filled; removed unless it was put in its place.
class UnfinishedFolder {
 public:
  explicit UnfinishedFolder(const std::string& final_path)
      : final_path_(final_path), path_(final_path + kUnfinishedSuffix) {
    std::error_code error;
    fs::remove_all(path_, error);
    fs::create_directories(path_, error);
    if (error) fail("cannot create ", path_, ": ", error.message());
  }
  ~UnfinishedFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  UnfinishedFolder(const UnfinishedFolder&) = delete;
  UnfinishedFolder& operator=(const UnfinishedFolder&) = delete;

  std::string file(const char* name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

  /// Renames to the final name. A checkpoint already there is exchanged in the same instant and removed
  /// after, so that at no time neither is whole.
  void put_in_place() {
    fsync_path(path_);
    if (!fs::exists(final_path_)) {
      if (::rename(path_.c_str(), final_path_.c_str()) != 0) fail_to_rename();
    } else if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_EXCHANGE) != 0) {
      replace_without_exchange();
    }
    fsync_path(fs::path(final_path_).parent_path().string());
  }

 private:
  [[noreturn]] void fail_to_rename() const {
    fail("cannot rename ", path_, " to ", final_path_, ": ", std::strerror(errno));
  }

  /// For file systems that cannot exchange two folders: the old one moves aside first.
  void replace_without_exchange() {
    const std::string aside = final_path_ + kReplacedSuffix;
    std::error_code error;
    fs::remove_all(aside, error);
    if (::rename(final_path_.c_str(), aside.c_str()) != 0) fail_to_rename();
    if (::rename(path_.c_str(), final_path_.c_str()) != 0) {
      const int reason = errno;
      fs::rename(aside, final_path_, error);
      errno = reason;
      fail_to_rename();
    }
    fs::remove_all(aside, error);
  }

  std::string final_path_;
  std::string path_;
};

std::string whole_checkpoint(const std::string& path) {
  if (!fs::is_directory(path)) fail("checkpoint ", path, ": no such folder");
  if (fs::exists(path + "/manifest.json") || !fs::is_directory(path + "/checkpoints")) {
    if (!fs::exists(path + "/manifest.json") && !fs::exists(path + "/" + kModelFile))
      fail("checkpoint ", path,
           ": no checkpoint, which would hold a manifest.json, and no run's folder, which would "
           "hold checkpoints/");
    const std::string damage = find_damage(path, required_files(), Verify::checksums);
    if (!damage.empty()) fail("checkpoint ", path, " is not whole: ", damage);
    return path;
  }
  const Listing found = newest(path);
  if (found.complete.empty()) {
    std::string reasons;
    for (const std::string& reason : found.passed_over) reasons += "; " + reason;
    fail("run folder ", path, " holds no whole checkpoint", reasons);
  }
  for (const std::string& reason : found.passed_over) log::warning("checkpoint passed over: " + reason);
  return found.complete.front();
}

}  // namespace

void save(const std::string& path, const Contents& contents) {
  for (const NamedTensors* tensors : {&contents.model, &contents.optimizer}) {
    const std::string problem = find_not_finite(*tensors);
    if (!problem.empty()) throw NotFiniteError("no checkpoint is written at " + path + ": " + problem);
  }
  UnfinishedFolder folder(fs::absolute(path).lexically_normal().string());
  write_safetensors(folder.file(kModelFile), contents.model, {{"format", "pt"}});
  write_safetensors(folder.file(kOptimizerFile), contents.optimizer, {});
  write_file_atomically(folder.file(kStateFile), format_trainer_state(contents.state));
  write_file_atomically(folder.file(kConfigYamlFile), contents.config_yaml);
  write_file_atomically(folder.file(kConfigJsonFile), contents.config_json);
  std::vector<std::string> files = required_files();
  if (!contents.tokenizer_file.empty()) {
    write_file_atomically(folder.file(kTokenizerFile), read_file(contents.tokenizer_file));
    files.emplace_back(kTokenizerFile);
  }
  write_manifest(folder.path(), files);
  folder.put_in_place();
}

Reader::Reader(const std::string& path) : path_(whole_checkpoint(path)) {}

TrainerState Reader::state() const {
  const std::string path = path_ + "/" + kStateFile;
  return parse_trainer_state(path, read_file(path));
}

std::string Reader::config_yaml() const { return read_file(path_ + "/" + kConfigYamlFile); }

std::string Reader::tokenizer_file() const {
  const std::string path = path_ + "/" + kTokenizerFile;
  return fs::exists(path) ? path : "";
}

void Reader::load_model(model::LanguageModel& model) const {
  const std::string path = path_ + "/" + kModelFile;
  SafetensorsFile file = read_safetensors(path);
  for (const auto& [name, value] : model.parameters()) {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) fail(path, ": tensor ", name, ", which the model has, is missing");
    if (found->second.sizes() != value.sizes()) {
      fail(path, ": tensor ", name, " has the shape ", c10::str(found->second.sizes()), ", the model's is ",
           c10::str(value.sizes()));
    }
    if (!found->second.is_floating_point()) fail(path, ": tensor ", name, " is not of a floating-point type");
  }
  if (file.tensors.size() != model.parameters().size()) {
    for (const auto& parameter : model.parameters()) file.tensors.erase(parameter.name);
    fail(path, ": tensor ", file.tensors.begin()->first, " belongs to no parameter of the model");
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, value] : model.parameters()) value.copy_(file.tensors.at(name));
}

NamedTensors Reader::optimizer() const {
  const SafetensorsFile file = read_safetensors(path_ + "/" + kOptimizerFile);
  return {file.tensors.begin(), file.tensors.end()};
}

}  // namespace asplash::checkpoint
