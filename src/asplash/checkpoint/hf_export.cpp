#include "asplash/checkpoint/hf_export.h"

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/checkpoint/hf_config.h"
#include "asplash/checkpoint/hf_weights.h"
#include "asplash/checkpoint/layout.h"
#include "asplash/checkpoint/model_loading.h"
#include "asplash/text/tokenizer.h"

namespace asplash::checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

void refuse_what_transformers_lacks(const std::string& path, const model::ModelConfig& config) {
  const auto refuse = [&](const char* setting) {
    fail("checkpoint ", path, ": transformers has no model with ", setting,
         "; only softmax attention with rope positions can be exported");
  };
  if (config.attention.function != model::AttentionFunction::softmax)
    refuse("model.attention.function: entmax");
  if (config.positions.kind != model::PositionKind::rope) refuse("model.positions.kind other than rope");
  if (config.attention.adaptive_temperature) refuse("model.attention.adaptive_temperature");
}

/// For LlamaTokenizer, the class of SentencePiece models; `legacy` would drop spaces behind control pieces.
std::string tokenizer_config(const text::Tokenizer& tokenizer, const ModelDescription& model) {
  const auto piece = [&](int64_t id) {
    return id < 0 ? Json() : Json(tokenizer.piece(static_cast<int32_t>(id)));
  };
  const Json json = {{"tokenizer_class", "LlamaTokenizer"},
                     {"bos_token", piece(model.bos_id)},
                     {"eos_token", piece(model.eos_id)},
                     {"unk_token", piece(tokenizer.unk_id())},
                     {"pad_token", piece(tokenizer.pad_id())},
                     {"add_bos_token", model.bos_id >= 0},
                     {"add_eos_token", false},
                     {"add_prefix_space", tokenizer.adds_prefix_space()},
                     {"legacy", false},
                     {"clean_up_tokenization_spaces", false},
                     {"model_max_length", model.trained_context}};
  return json.dump(2) + "\n";
}

/// NAME.tmp while it is filled; removed unless it got its name.
class PartialFolder {
 public:
  explicit PartialFolder(std::string final_path)
      : final_path_(std::move(final_path)), path_(final_path_ + ".tmp") {
    std::error_code error;
    fs::remove_all(path_, error);
    fs::create_directories(path_, error);
    if (error) fail("--output ", path_, ": cannot be made: ", error.message());
  }
  ~PartialFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  std::string file(const char* name) const { return path_ + "/" + name; }
  void finish() {
    fsync_path(path_);
    std::error_code error;
    fs::rename(path_, final_path_, error);
    if (error) fail("--output ", final_path_, ": cannot be made: ", error.message());
    fsync_path(fs::path(final_path_).parent_path().string());
  }

 private:
  std::string final_path_;
  std::string path_;
};

}  // namespace

std::string export_hugging_face(const ExportOptions& options) {
  if (fs::exists(options.output)) fail("--output ", options.output, ": is there already; name a new folder");
  const Reader reader(options.checkpoint);
  const ModelDescription description = describe_model(reader);
  refuse_what_transformers_lacks(reader.path(), description.config);
  const LoadedModel loaded = load_model(reader, "cpu", at::kFloat);
  const auto tokenizer = text::Tokenizer::load(loaded.tokenizer_file);
  const std::string config = hugging_face_config(description.config, description.trained_context,
                                                 description.bos_id, description.eos_id, options.dtype);

  PartialFolder folder(fs::absolute(options.output).lexically_normal().string());
  write_safetensors(folder.file(kModelFile), cast_weights(*loaded.model, options.dtype), {{"format", "pt"}});
  write_file_atomically(folder.file(kConfigJsonFile), config);
  write_file_atomically(folder.file(kTokenizerFile), read_file(loaded.tokenizer_file));
  write_file_atomically(folder.file("tokenizer_config.json"), tokenizer_config(tokenizer, description));
  folder.finish();
  return nlohmann::json::parse(config).at("architectures").at(0).get<std::string>();
}

}  // namespace asplash::checkpoint
