#include "asplash/train/setup.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/text.h"
#include "asplash/base/version.h"
#include "asplash/config/config.h"
#include "asplash/data/window_reader.h"
#include "asplash/model/memory_estimate.h"
#include "asplash/ops/entmax_attention.h"

namespace asplash::train {
namespace {

bool wants_bf16(Precision precision, const ops::DeviceInfo& device) {
  return precision == Precision::automatic ? device.is_cuda : precision == Precision::bf16;
}

/// What a key's value turned out to be unfit for, with the key.
template <typename F>
auto for_key(const char* key, F use) {
  try {
    return use();
  } catch (const Error& error) {
    fail(key, ": ", error.what());
  }
}

/// The model's vocabulary: the tokenizer's where the configuration leaves it open, else one that holds it.
int64_t vocab_size(const RunConfig& config, const data::Manifest& manifest) {
  const int64_t wanted = config.model.vocab_size;
  if (wanted == 0) return manifest.vocab_size;
  if (wanted < manifest.vocab_size) {
    fail("model.vocab_size: ", wanted, " is less than the ", manifest.vocab_size,
         " tokens of the tokenizer of ", manifest.path, "; set it to at least that, or to 0");
  }
  return wanted;
}

void check_same_tokenizer(const data::Manifest& train, const data::Manifest& validation) {
  if (train.tokenizer_hash == validation.tokenizer_hash) return;
  fail("data.validation: ", validation.path, " was packed with another tokenizer (",
       validation.tokenizer_hash, ") than data.train: ", train.path, " (", train.tokenizer_hash, ")");
}

void check_sequence_fits(const char* key, const data::TokenDataset& dataset, int64_t context) {
  if (dataset.tokens() > context) return;
  fail("data.context: a sequence of ", context, " tokens and its last target do not fit ", key, ": ",
       dataset.manifest().path, " holds ", dataset.tokens(), " tokens; at most ", dataset.tokens() - 1);
}

void check_step_fits(const Setup& setup) {
  const int64_t available = setup.samples_per_epoch();
  const int64_t needed = setup.config.sequences_per_step();
  if (available >= needed) return;
  const int64_t context = setup.config.data.context;
  fail("train.tokens_per_step: ", setup.config.train.tokens_per_step, " tokens are ", needed,
       " sequences of ", context, ", data.train: ", setup.train->manifest().path, " holds ", available,
       "; at most ", available * context);
}

/// The manifest names each shard's checksum, which covers all of it.
std::string identity_of(const data::Manifest& manifest) {
  const std::string shards = nlohmann::json::parse(read_file(manifest.path)).at("shards").dump();
  return hash_bytes(shards.data(), shards.size());
}

/// The operator would refuse it in the first step; here it has a key.
void check_head_dim(const Setup& setup) {
  const model::ModelConfig& model = setup.config.model;
  const bool kernels = setup.device.is_cuda && model.attention.function == model::AttentionFunction::entmax &&
                       model.attention.implementation == ops::EntmaxImplementation::automatic;
  if (!kernels || ops::has_entmax_kernels(model.head_dim)) return;
  fail("model.head_dim: ", model.head_dim, " has no CUDA kernels for entmax attention, there are some for ",
       ops::entmax_kernel_sizes(),
       "; or set model.attention.implementation=reference (slow), or train.device=cpu");
}

void open_data(Setup& setup) {
  const DataConfig& data = setup.config.data;
  setup.train = for_key("data.train", [&] { return data::TokenDataset::open(data.train); });
  setup.data_identity = identity_of(setup.train->manifest());
  check_sequence_fits("data.train", *setup.train, data.context);
  setup.config.model.vocab_size = vocab_size(setup.config, setup.train->manifest());
  check_step_fits(setup);
  if (data.validation.empty()) return;
  setup.validation = for_key("data.validation", [&] { return data::TokenDataset::open(data.validation); });
  check_same_tokenizer(setup.train->manifest(), setup.validation->manifest());
  check_sequence_fits("data.validation", *setup.validation, data.context);
}

/// A model that cannot fit would be found out by the system, which ends programs that have taken all memory.
void check_memory(const Setup& setup) {
  const RunConfig& c = setup.config;
  const auto needed =
      model::estimate_memory(c.model, c.micro_batch(), c.data.context, setup.bf16, setup.device.is_cuda);
  const int64_t least = needed.weights + needed.gradients + needed.optimizer;
  if (setup.device.memory_bytes == 0 || least <= setup.device.memory_bytes) return;
  fail("model: not enough memory: weights, gradients and optimizer state take ",
       human_bytes(static_cast<double>(least)), ", ", setup.device.name, " has ",
       human_bytes(static_cast<double>(setup.device.memory_bytes)),
       "; reduce model.width, model.layers or model.vocab_size");
}

std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return text;
}

}  // namespace

int64_t Setup::samples_per_epoch() const {
  if (!train) return 0;
  return data::WindowReader::count(*train, config.data.context);
}

data::LoaderOptions loader_options(const RunConfig& config) {
  data::LoaderOptions options;
  options.context = config.data.context;
  options.rows = config.micro_batch();
  options.micro_batches = config.accumulation();
  options.packed = config.data.documents == DocumentMode::packed;
  options.prefetch = config.data.prefetch;
  options.seed = config.train.seed_value();
  options.shuffle = config.data.shuffle;
  return options;
}

RunConfig load_config(const TrainOptions& options) {
  RunConfig config;
  config::load(options.config_file, options.overrides, config::describing(config));
  config.model = config.model.resolved();
  config.train.micro_batch = config.micro_batch();
  return config;
}

Setup prepare(const TrainOptions& options, const RunConfig& config) {
  Setup setup;
  setup.config = config;
  setup.command = "asplash-train --config " + options.config_file;
  for (const std::string& text : options.overrides) setup.command += " --set " + text;
  ops::prepare_cpu(config.train.threads);
  ops::set_deterministic(config.train.deterministic);
  setup.device = for_key("train.device", [&] { return ops::choose_device(config.train.device); });
  setup.bf16 = wants_bf16(config.train.precision, setup.device);
  check_head_dim(setup);
  try {
    open_data(setup);
  } catch (const Error& error) {
    if (!options.dry_run || setup.train || config.model.vocab_size == 0) throw;
    setup.data_problem = error.what();
  }
  if (!options.dry_run) check_memory(setup);
  return setup;
}

std::string resolved_config_text(const Setup& setup) {
  RunConfig config = setup.config;
  return str("# asplash ", version(), ", git commit ", git_commit(), ", ", utc_now(), "\n# ",
             setup.device.name, ": ", setup.device.description, ", ", setup.precision(), "\n# ",
             one_line(setup.command), "\n", config::print(config::describing(config)));
}

}  // namespace asplash::train
