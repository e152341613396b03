#include "asplash/eval/capture.h"

#include <ATen/core/Tensor.h>

#include <cmath>
#include <iomanip>
#include <limits>
#include <map>
#include <sstream>

#include "asplash/base/error.h"
#include "asplash/base/log.h"
#include "asplash/base/text.h"
#include "asplash/base/version.h"
#include "asplash/checkpoint/model_loading.h"
#include "asplash/eval/attention_capture.h"
#include "asplash/eval/data_match.h"
#include "asplash/eval/inference.h"
#include "asplash/model/language_model.h"

namespace asplash::eval {
namespace {

/// Every digit: readers compute with it.
std::string exact(double value) {
  std::ostringstream out;
  out << std::setprecision(std::numeric_limits<double>::max_digits10) << value;
  return out.str();
}

std::string listed(const std::vector<int64_t>& values) {
  std::vector<std::string> words;
  for (const int64_t value : values) words.push_back(std::to_string(value));
  return join(words, ",");
}

std::map<std::string, std::string> metadata_of(const AttentionCapture& what,
                                               const checkpoint::LoadedModel& loaded,
                                               const data::Manifest& manifest, const Inference& inference) {
  const model::ModelConfig& config = loaded.model->config();
  const bool entmax = config.attention.function == model::AttentionFunction::entmax;
  return {{"format", "asplash-attention-1"},
          {"checkpoint", loaded.path},
          {"step", std::to_string(loaded.state.step)},
          {"trained_context", std::to_string(loaded.trained_context)},
          {"attention", model::name_of(config.attention.function)},
          {"alpha", entmax ? exact(config.attention.alpha) : "1"},
          {"scale", exact(1 / std::sqrt(static_cast<double>(config.head_dim)))},
          {"causal", "true"},
          {"positions", model::name_of(config.positions.kind)},
          {"head_kinds", join(head_kinds(config), ",")},
          {"adaptive_temperature", config.attention.adaptive_temperature ? "true" : "false"},
          {"qk_norm", config.qk_norm ? "true" : "false"},
          {"layers", listed(what.layers)},
          {"model_layers", std::to_string(config.layers)},
          {"heads", std::to_string(config.heads)},
          {"kv_heads", std::to_string(config.kv_heads)},
          {"head_dim", std::to_string(config.head_dim)},
          {"context", std::to_string(what.context)},
          {"windows", std::to_string(what.begins.size())},
          {"window_begins", listed(what.begins)},
          {"documents", what.packed ? "packed" : "stream"},
          {"dataset", manifest.path},
          {"split", manifest.split},
          {"tokenizer_hash", loaded.tokenizer_hash},
          {"device", inference.device.description},
          {"precision", inference.precision},
          {"version", version() + " (" + git_commit() + ")"},
          {"date", utc_now()}};
}

}  // namespace

std::string capture(const CaptureOptions& options) {
  check_documents(options.documents);
  const Inference inference = choose_inference(options.device, options.precision, options.threads);
  const auto dataset = data::TokenDataset::open(options.data);
  const checkpoint::Reader reader(options.checkpoint);
  check_tokenizer(options.data, dataset.manifest(), reader);
  const checkpoint::ModelDescription description = checkpoint::describe_model(reader);

  AttentionCapture what;
  what.layers = layers_to_capture(options.layers, description.config.layers);
  what.context = options.context == 0 ? description.trained_context : options.context;
  what.begins = spread_windows(dataset.tokens(), what.context, options.windows);
  what.packed = options.documents.empty() ? description.packed_documents : options.documents == "packed";
  what.device = inference.device.name;

  const auto loaded = checkpoint::load_model(reader, inference.device.name, inference.compute_type);
  log::info(str("capturing attention of ", loaded.path, " on ", inference.device.description, " (",
                inference.device.name, ", ", inference.precision, ")"));
  const checkpoint::NamedTensors tensors = capture_attention(*loaded.model, stream_of(dataset), what);
  checkpoint::write_safetensors_atomically(options.file, tensors,
                                           metadata_of(what, loaded, dataset.manifest(), inference));
  size_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += tensor.nbytes();
  return str(options.file, ": query, key and value of ", what.layers.size(), " layers (", listed(what.layers),
             ") over ", what.begins.size(), what.begins.size() == 1 ? " window of " : " windows of ",
             grouped(what.context), " tokens, step ", loaded.state.step, ", ", inference.precision, "; ",
             human_bytes(static_cast<double>(bytes)));
}

}  // namespace asplash::eval
