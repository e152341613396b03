#include "asplash/checkpoint/hf_import.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/text.h"
#include "asplash/checkpoint/checkpoint.h"
#include "asplash/checkpoint/hf_config.h"
#include "asplash/checkpoint/hf_model_config.h"
#include "asplash/checkpoint/hf_weights.h"
#include "asplash/checkpoint/layout.h"
#include "asplash/checkpoint/model_loading.h"
#include "asplash/text/tokenizer.h"

namespace asplash::checkpoint {
namespace {

namespace fs = std::filesystem;

std::string find_tokenizer(const ImportOptions& options) {
  if (!options.tokenizer_file.empty()) return options.tokenizer_file;
  const std::string path = options.input + "/" + kTokenizerFile;
  if (fs::exists(path)) return path;
  if (fs::exists(options.input + "/tokenizer.json")) {
    fail(options.input, " holds tokenizer.json but no ", kTokenizerFile,
         ": asplash reads SentencePiece models only; where the tokenizer is one, name its file by "
         "--tokenizer");
  }
  fail(options.input, " holds no ", kTokenizerFile, ": name the SentencePiece model by --tokenizer");
}

/// The tokens around a document, as config.json and the tokenizer must agree on them.
struct Ends {
  int64_t bos = -1;
  int64_t eos = -1;
};

Ends ends_of(const HuggingFaceModel& found, const text::Tokenizer& tokenizer, const std::string& config) {
  Ends ends;
  if (found.bos_id >= 0) ends.bos = tokenizer.bos_id();
  if (!found.eos_ids.empty()) ends.eos = tokenizer.eos_id();
  if (ends.bos != found.bos_id) {
    fail(config, ": bos_token_id is ", found.bos_id, ", ", tokenizer.path(), " has ", tokenizer.bos_id(),
         " (-1: none)");
  }
  const auto& ids = found.eos_ids;
  if (!ids.empty() && std::find(ids.begin(), ids.end(), ends.eos) == ids.end()) {
    fail(config, ": eos_token_id is ", ids.front(), ", ", tokenizer.path(), " has ", tokenizer.eos_id(),
         " (-1: none)");
  }
  return ends;
}

/// Tokens that transformers adds behind the SentencePiece model's: their weights stay, no text becomes them.
void note_added_tokens(const std::string& folder, int64_t pieces, std::vector<std::string>& notes) {
  using Json = nlohmann::json;
  const std::string path = folder + "/tokenizer_config.json";
  if (!fs::exists(path)) return;
  try {
    const Json config = Json::parse(read_file(path));
    const Json added = config.value("added_tokens_decoder", Json::object());
    for (const auto& item : added.items()) {
      int64_t id = 0;
      const char* end = item.key().data() + item.key().size();
      if (const auto [at, error] = std::from_chars(item.key().data(), end, id);
          at != end || error != std::errc())
        fail(path, ": added_tokens_decoder: '", shown(item.key()), "' is not a token id");
      if (id < pieces) continue;
      notes.push_back(str("token ", id, " (", shown(item.value().value("content", "")), ") is not in ",
                          kTokenizerFile, ": its weights are kept, no text becomes it"));
    }
  } catch (const Json::exception& error) {
    fail(path, ": ", json_reason(error));
  }
}

/// Before memory is asked for: a config.json of another, or of a made-up model. In floating point, since the
/// products of what it says may be beyond any integer.
void check_size(const HuggingFaceModel& found, const std::string& config_path, const std::string& folder) {
  const model::ModelConfig& config = found.config;
  const auto size = [](int64_t value) { return static_cast<double>(value); };
  const double attention = 2 * size(config.width) * size(config.heads) * size(config.head_dim);
  const double mlp = 3 * size(config.width) * size(config.mlp_width);
  const double parameters =
      size(config.vocab_size) * size(config.width) + size(config.layers) * (attention + mlp);
  double bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().extension() == ".safetensors")
      bytes += size(entry.file_size());
  }
  constexpr double kFewestBytes = 2;  // of one value
  if (bytes > 0 && kFewestBytes * parameters > bytes) {
    fail(config_path, ": describes a model of ", human_count(parameters),
         " parameters or more, for which the safetensors beside it (", human_bytes(bytes), ") are too small");
  }
}

}  // namespace

ImportReport import_hugging_face(const ImportOptions& options) {
  if (!fs::is_directory(options.input)) fail("--input ", options.input, ": no such folder");
  if (fs::exists(options.output)) fail("--output ", options.output, ": is there already; name a new folder");
  const std::string config_path = options.input + "/config.json";
  const HuggingFaceModel found = parse_hugging_face_config(config_path, read_file(config_path));
  const auto tokenizer = text::Tokenizer::load(find_tokenizer(options));
  if (tokenizer.vocab_size() > found.config.vocab_size) {
    fail(config_path, ": vocab_size is ", found.config.vocab_size, ", less than the ", tokenizer.vocab_size(),
         " pieces of ", tokenizer.path());
  }
  const Ends ends = ends_of(found, tokenizer, config_path);
  check_size(found, config_path, options.input);

  ImportReport report;
  report.notes = found.notes;
  note_added_tokens(options.input, tokenizer.vocab_size(), report.notes);
  const auto model = model::make_decoder(found.config, "cpu", at::kFloat, /*seed=*/0);
  load_hugging_face_weights(options.input, *model);

  Contents contents;
  for (const auto& [name, value] : model->parameters()) contents.model.emplace_back(name, value);
  contents.config_yaml = model_config_text(found.config, found.context);
  contents.config_json = hugging_face_config(found.config, found.context, ends.bos, ends.eos);
  contents.tokenizer_file = tokenizer.path();
  save(options.output, contents);
  report.parameters = model::parameter_count(found.config);
  report.context = found.context;
  report.vocab_size = found.config.vocab_size;
  report.tokenizer_pieces = tokenizer.vocab_size();
  report.dtype = found.dtype;
  return report;
}

}  // namespace asplash::checkpoint
