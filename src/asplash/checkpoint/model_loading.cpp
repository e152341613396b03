#include "asplash/checkpoint/model_loading.h"

#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/text.h"
#include "asplash/checkpoint/layout.h"
#include "asplash/config/config.h"

namespace asplash::checkpoint {
namespace {

/// The two sections of a run's configuration that make its model; the rest belongs to the trainer.
struct ModelSections {
  struct Data {
    int64_t context = 0;
    bool packed = false;
    void describe(config::Fields& f) {
      f.choice("documents", packed, {{false, "stream"}, {true, "packed"}}, "how documents were told apart");
      f.field("context", context, "tokens of a training sequence", config::at_least(1));
    }
  };
  model::ModelConfig model;
  Data data;

  void describe(config::Fields& f) {
    f.section("model", model, "the decoder");
    f.section("data", data, "what it was trained on");
  }
};

ModelSections read_sections(const std::string& path) {
  YAML::Node kept;
  try {
    const YAML::Node whole = YAML::LoadFile(path);
    kept["model"] = whole["model"];
    kept["data"]["context"] = whole["data"]["context"];
    if (whole["data"]["documents"]) kept["data"]["documents"] = whole["data"]["documents"];
  } catch (const YAML::Exception& error) {
    fail(path, ": ", error.what());
  }
  ModelSections sections;
  config::load_text(YAML::Dump(kept), path, {}, config::describing(sections), config::Unused::allowed);
  return sections;
}

}  // namespace

ModelDescription describe_model(const Reader& reader) {
  const ModelSections sections = read_sections(reader.path() + "/" + kConfigYamlFile);
  ModelDescription description;
  description.config = sections.model.resolved();
  description.trained_context = sections.data.context;
  description.packed_documents = sections.data.packed;
  const std::string path = reader.path() + "/" + kConfigJsonFile;
  try {
    const auto json = nlohmann::json::parse(read_file(path));
    if (description.config.vocab_size == 0) description.config.vocab_size = json.at("vocab_size");
    description.bos_id = json.value("bos_token_id", int64_t{-1});
    description.eos_id = json.value("eos_token_id", int64_t{-1});
  } catch (const nlohmann::json::exception& error) {
    fail(path, ": ", json_reason(error));
  }
  return description;
}

std::string model_config_text(const model::ModelConfig& config, int64_t trained_context) {
  ModelSections sections;
  sections.model = config;
  sections.data.context = trained_context;
  return config::print(config::describing(sections));
}

std::string tokenizer_of(const Reader& reader) {
  const std::string file = reader.tokenizer_file();
  if (!file.empty()) return file;
  fail("checkpoint ", reader.path(), " holds no ", kTokenizerFile,
       ": its data was packed without a tokenizer");
}

LoadedModel load_model(const Reader& reader, const std::string& device, c10::ScalarType compute_type) {
  const ModelDescription description = describe_model(reader);
  LoadedModel loaded;
  loaded.model = model::make_decoder(description.config, device, compute_type, /*seed=*/0);
  reader.load_model(*loaded.model);
  loaded.path = reader.path();
  loaded.state = reader.state();
  loaded.trained_context = description.trained_context;
  loaded.packed_documents = description.packed_documents;
  loaded.tokenizer_file = tokenizer_of(reader);
  loaded.tokenizer_hash = hash_file(loaded.tokenizer_file);
  loaded.bos_id = description.bos_id;
  loaded.eos_id = description.eos_id;
  return loaded;
}

LoadedModel load_model(const std::string& path, const std::string& device, c10::ScalarType compute_type) {
  return load_model(Reader(path), device, compute_type);
}

}  // namespace asplash::checkpoint
