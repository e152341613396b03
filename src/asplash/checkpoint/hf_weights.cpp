#include "asplash/checkpoint/hf_weights.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/text.h"

namespace asplash::checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kWhole = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbeddings = "model.embed_tokens.weight";

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Which tensors each shard must hold, by the index.
using Shards = std::map<std::string, std::set<std::string>>;

Shards read_index(const std::string& path) {
  Shards shards;
  try {
    const Json index = Json::parse(read_file(path));
    for (const auto& item : index.at("weight_map").items()) {
      const auto file = item.value().get<std::string>();
      if (file.empty() || file.find('/') != std::string::npos || !ends_with(file, ".safetensors")) {
        fail(path, ": weight_map: ", shown(item.key()), ": '", shown(file),
             "' is not the name of a .safetensors file");
      }
      shards[file].insert(item.key());
    }
  } catch (const Json::exception& error) {
    fail(path, ": not an index of shards: ", json_reason(error));
  }
  if (shards.empty()) fail(path, ": weight_map names no tensor");
  return shards;
}

/// A folder that holds weights in another form, said by name.
[[noreturn]] void fail_without_safetensors(const std::string& folder) {
  for (const char* other : {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"}) {
    if (fs::exists(folder + "/" + other)) {
      fail(folder, " holds its weights as ", other, ", not as safetensors: save it again by transformers' ",
           "save_pretrained(folder, safe_serialization=True)");
    }
  }
  fail(folder, " holds neither ", kWhole, " nor ", kIndex);
}

/// Takes tensors as they come, and knows in the end which are missing.
class Weights {
 public:
  explicit Weights(model::LanguageModel& model) : tied_(model.config().tied_embeddings) {
    for (const auto& [name, value] : model.parameters()) missing_.emplace(name, value);
  }

  void take(const std::string& path, const std::string& name, const at::Tensor& tensor) {
    if (ends_with(name, ".rotary_emb.inv_freq")) return;
    if (name == kHead && tied_) {
      head_ = tensor.to(at::kFloat);
      head_path_ = path;
      return;
    }
    const auto found = missing_.find(name);
    if (found == missing_.end()) {
      fail(path, ": tensor ", shown(name),
           taken_.count(name) ? " is there twice" : " has no place in this model");
    }
    copy(path, name, tensor, found->second);
    taken_.emplace(name, found->second);
    missing_.erase(found);
  }

  void finish(const std::string& folder) const {
    if (!missing_.empty()) {
      fail(folder, ": tensor ", missing_.begin()->first, " is missing",
           missing_.size() > 1 ? str(", and ", missing_.size() - 1, " more") : "");
    }
    if (head_.defined() && !at::equal(head_, taken_.at(kEmbeddings))) {
      fail(head_path_, ": tensor ", kHead, " differs from ", kEmbeddings,
           ", though config.json says that they are tied: set tie_word_embeddings to false there");
    }
  }

 private:
  static void copy(const std::string& path, const std::string& name, const at::Tensor& tensor,
                   const at::Tensor& parameter) {
    const auto type = tensor.scalar_type();
    if (type != at::kFloat && type != at::kBFloat16 && type != at::kHalf) {
      fail(path, ": tensor ", name, " is ", c10::toString(type), ", must be F32, BF16 or F16");
    }
    if (tensor.sizes() != parameter.sizes()) {
      fail(path, ": tensor ", name, " has the shape ", c10::str(tensor.sizes()), ", config.json asks for ",
           c10::str(parameter.sizes()));
    }
    if (!at::isfinite(tensor).all().item<bool>()) {
      fail(path, ": tensor ", name, " holds values that are not finite");
    }
    parameter.copy_(tensor);
  }

  bool tied_;
  std::map<std::string, at::Tensor> missing_, taken_;
  at::Tensor head_;  ///< of a file that has one beside tied embeddings
  std::string head_path_;
};

}  // namespace

void load_hugging_face_weights(const std::string& folder, model::LanguageModel& model) {
  const at::NoGradGuard no_grad;
  Weights weights(model);
  if (fs::exists(folder + "/" + kIndex)) {
    for (const auto& [file, names] : read_index(folder + "/" + kIndex)) {
      const std::string path = folder + "/" + file;
      const SafetensorsFile shard = read_safetensors(path);
      for (const auto& [name, tensor] : shard.tensors) {
        if (names.count(name) == 0) fail(path, ": tensor ", shown(name), " is not in ", kIndex);
        weights.take(path, name, tensor);
      }
      for (const std::string& name : names) {
        if (shard.tensors.count(name) == 0)
          fail(path, ": tensor ", shown(name), ", which ", kIndex, " names, is missing");
      }
    }
  } else if (fs::exists(folder + "/" + kWhole)) {
    const std::string path = folder + "/" + kWhole;
    for (const auto& [name, tensor] : read_safetensors(path).tensors) weights.take(path, name, tensor);
  } else {
    fail_without_safetensors(folder);
  }
  weights.finish(folder);
}

NamedTensors cast_weights(const model::LanguageModel& model, const std::string& dtype) {
  const std::map<std::string, at::ScalarType> types = {
      {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};
  const at::NoGradGuard no_grad;
  NamedTensors cast;
  for (const auto& [name, value] : model.parameters()) {
    cast.emplace_back(name, value.detach().to(types.at(dtype)));
    if (!at::isfinite(cast.back().second).all().item<bool>())
      fail("tensor ", name, " holds values that are not finite as ", dtype);
  }
  return cast;
}

}  // namespace asplash::checkpoint
