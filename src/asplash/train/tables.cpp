#include "asplash/train/tables.h"

#include <utility>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/text.h"
#include "asplash/base/version.h"
#include "asplash/model/memory_estimate.h"

namespace asplash::train {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string share(double part, double whole) { return fixed(whole > 0 ? 100 * part / whole : 0, 1) + "%"; }

std::string describe_data(const data::TokenDataset& dataset) {
  const data::Manifest& manifest = dataset.manifest();
  return str(manifest.path, ": ", grouped(dataset.tokens()), " tokens, ", grouped(dataset.documents()),
             " documents");
}

std::string describe_attention(const model::ModelConfig& config) {
  const bool entmax = config.attention.function == model::AttentionFunction::entmax;
  return str(entmax ? fixed(config.attention.alpha, 2) + "-entmax" : "softmax", ", ",
             model::name_of(config.positions.kind), " positions",
             config.attention.adaptive_temperature ? ", adaptive temperature" : "");
}

std::string describe_schedule(const optim::OptimConfig& config) {
  return str("AdamW, lr ", config.lr, ", ", optim::name_of(config.schedule), ", ", config.warmup_steps,
             " warm-up steps, weight decay ", config.weight_decay, ", clipping at ", config.clip_norm);
}

Rows run_rows(const Setup& setup) {
  const RunConfig& c = setup.config;
  const ops::DeviceInfo& device = setup.device;
  Rows rows = {{"asplash-train", str(version(), " (", git_commit(), ")")}};
  rows.push_back({"run folder", c.train.output});
  std::string where =
      str(device.name, ": ", device.description, ", ", human_bytes(static_cast<double>(device.memory_bytes)));
  if (!device.is_cuda) where += str(", ", device.threads, " threads");
  rows.push_back({"device", where});
  rows.push_back({"precision", str(setup.precision(), setup.bf16 ? " products over fp32 weights" : "")});
  rows.push_back(
      {"training data", setup.train ? describe_data(*setup.train) : "none: " + setup.data_problem});
  if (setup.validation) rows.push_back({"validation data", describe_data(*setup.validation)});
  rows.push_back(
      {"documents", c.data.documents == DocumentMode::packed ? "packed, kept apart" : "one stream"});
  rows.push_back({"model", str(c.model.layers, " layers of width ", c.model.width, ", ", c.model.heads,
                               " query and ", c.model.kv_heads, " key/value heads of ", c.model.head_dim,
                               ", MLP ", c.model.mlp_width, ", vocabulary ", c.model.vocab_size)});
  rows.push_back({"attention", describe_attention(c.model)});
  rows.push_back({"optimizer", describe_schedule(c.optim)});
  return rows;
}

Rows amount_rows(const Setup& setup) {
  const RunConfig& c = setup.config;
  const double flops = model::train_flops_per_token(c.model, c.data.context);
  const int64_t total = c.train.steps * c.train.tokens_per_step;
  Rows rows = {{"amount", ""}};
  rows.push_back({"context", grouped(c.data.context) + " tokens"});
  rows.push_back({"tokens a step", str(grouped(c.train.tokens_per_step), " (", c.accumulation(), " x ",
                                       c.micro_batch(), " sequences)")});
  rows.push_back({"steps", grouped(c.train.steps)});
  rows.push_back({"total tokens", grouped(total)});
  const int64_t samples = setup.samples_per_epoch();
  if (samples > 0) {
    const double epoch_steps = static_cast<double>(samples) / static_cast<double>(c.sequences_per_step());
    rows.push_back({"steps an epoch", str(fixed(epoch_steps, 1), " (", grouped(samples), " sequences)")});
    rows.push_back({"epochs", fixed(static_cast<double>(c.train.steps) / epoch_steps, 2)});
  }
  rows.push_back({"work a token", human_count(flops) + "FLOP"});
  rows.push_back({"work in all", human_count(flops * static_cast<double>(total)) + "FLOP"});
  return rows;
}

Rows parameter_rows(const model::ModelConfig& config) {
  const auto total = static_cast<double>(model::parameter_count(config));
  Rows rows = {{"parameters", "number", "share"}};
  for (const auto& [part, number] : model::parameters_by_part(config)) {
    rows.push_back({part, grouped(number), share(static_cast<double>(number), total)});
  }
  rows.push_back({"total", grouped(model::parameter_count(config)), "100.0%"});
  return rows;
}

Rows memory_rows(const Setup& setup) {
  const RunConfig& c = setup.config;
  const auto m =
      model::estimate_memory(c.model, c.micro_batch(), c.data.context, setup.bf16, setup.device.is_cuda);
  const std::pair<const char*, int64_t> segments[] = {
      {"weights", m.weights},         {"gradients", m.gradients}, {"optimizer", m.optimizer},
      {"activations", m.activations}, {"logits", m.logits},       {"total", m.total()}};
  Rows rows = {{"memory (estimate)", "size", "share"}};
  for (const auto& [segment, bytes] : segments) {
    const auto size = static_cast<double>(bytes);
    rows.push_back({segment, human_bytes(size), share(size, static_cast<double>(m.total()))});
  }
  return rows;
}

}  // namespace

std::string start_tables(const Setup& setup) {
  return join({table(run_rows(setup)), table(amount_rows(setup)), table(parameter_rows(setup.config.model)),
               table(memory_rows(setup))},
              "\n");
}

}  // namespace asplash::train
