#include "asplash/train/run_config.h"

#include <utility>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/text.h"

namespace asplash::train {
namespace {

/// Of a sequence, a step: products of two of them, and of one and kMaxSteps, fit into 64 bits.
constexpr int64_t kMaxTokens = 1'000'000'000;
constexpr int64_t kMaxSteps = 1'000'000'000;

/// "512 or 1024": the multiples of `unit` around a value.
std::string neighbours(int64_t value, int64_t unit) {
  const int64_t below = value / unit * unit;
  return below > 0 ? str(below, " or ", below + unit) : str(unit);
}

}  // namespace

void DataConfig::describe(config::Fields& f) {
  using Names = std::vector<std::pair<DocumentMode, const char*>>;
  f.field("train", train, "packed split to train on: its folder or manifest.json");
  f.field("validation", validation, "packed split for the evaluations while training; empty: none");
  f.choice("documents", documents, Names{{DocumentMode::stream, "stream"}, {DocumentMode::packed, "packed"}},
           "stream: one stream across documents; packed: attention and positions do not cross documents");
  f.field("context", context, "tokens of a sequence", config::between(2, kMaxTokens));
  f.field("shuffle", shuffle,
          "a new random order of the sequences each epoch (of the seed); false: in order");
  f.field("prefetch", prefetch, "micro-batches read ahead", config::at_least(1));
}

void TrainConfig::describe(config::Fields& f) {
  using Names = std::vector<std::pair<Precision, const char*>>;
  f.field("output", output, "run folder: checkpoints, metrics.jsonl, train.log, config.yaml");
  f.field(
      "initial_weights", initial_weights,
      "checkpoint whose weights a new run starts from (asplash-convert from-hf makes one); empty: random");
  f.field("steps", steps, "optimizer steps", config::between(1, kMaxSteps));
  f.field("tokens_per_step", tokens_per_step,
          "tokens of a step over all micro-batches; a multiple of context", config::between(1, kMaxTokens));
  f.field("micro_batch", micro_batch,
          "sequences computed at a time (memory), gradients are accumulated; 0: all of a step",
          config::between(0, kMaxTokens));
  f.field("seed", seed, "of the initial weights and the data order", config::at_least(0));
  f.field("device", device, "auto, cpu, cuda or cuda:N");
  f.field("threads", threads, "CPU threads of an operator; 0: libtorch's choice", config::between(0, 1024));
  f.choice("precision", precision,
           Names{{Precision::automatic, "automatic"}, {Precision::fp32, "fp32"}, {Precision::bf16, "bf16"}},
           "of products, over fp32 weights; automatic: bf16 on a GPU, fp32 on the CPU");
  f.field("deterministic", deterministic, "deterministic algorithms only, slower on a GPU");
  f.field("max_skipped_in_a_row", max_skipped_in_a_row,
          "training stops after so many steps in a row with a non-finite loss or gradient",
          config::at_least(1));
  f.field(
      "spike_threshold", spike_threshold,
      "deviations above the loss of the steps before from which on a step is reported as a spike; 0: never",
      config::at_least(0));
  f.field("log_every", log_every, "steps between lines on the console, and between waits for the device",
          config::at_least(1));
  f.field(
      "log_mebibytes", log_mebibytes,
      "size at which train.log is renamed to train.1.log, that to train.2.log, up to train.3.log; 0: never",
      config::between(0, 1 << 20));
  f.field("statistics_every", statistics_every, "steps between attention statistics (entmax); 0: never",
          config::at_least(0));
  f.field("evaluate_every", evaluate_every, "steps between evaluations; 0: only at the end",
          config::at_least(0));
  f.field("evaluate_tokens", evaluate_tokens, "at most so many target tokens an evaluation",
          config::at_least(1));
  f.field("checkpoint_every", checkpoint_every, "steps between checkpoints; 0: only at the end",
          config::at_least(0));
  f.field("checkpoint_at_start", checkpoint_at_start,
          "also save the untrained weights, as step 0; never pruned");
  f.field("keep_checkpoints", keep_checkpoints, "newest checkpoints kept", config::at_least(1));
  f.field("keep_best", keep_best,
          "also keep the checkpoint of the lowest validation loss; an evaluation that is the best saves one");
  f.choice("on_failed_write", on_failed_write,
           std::vector<std::pair<OnFailedWrite, const char*>>{{OnFailedWrite::go_on, "continue"},
                                                              {OnFailedWrite::stop, "stop"}},
           "where a checkpoint or metrics cannot be written (disk full); continue: warn, the next save tries "
           "again, and only a failed last save is an error");
  f.check(!output.empty(), "output", "must name a folder");
}

void RunConfig::describe(config::Fields& f) {
  f.section("train", train, "the run");
  f.section("data", data, "what is read");
  f.section("model", model, "what is trained");
  f.section("optim", optim, "how it is trained");

  f.check(!data.train.empty(), "data.train", "names no data: set it to a split packed by asplash-data pack");
  const int64_t sequences = std::max<int64_t>(train.micro_batch, 1);
  // Values out of range are reported by themselves and have no product to hold the step against.
  const bool in_range = data.context >= 1 && data.context <= kMaxTokens && sequences <= kMaxTokens;
  const int64_t unit = in_range ? data.context * sequences : 1;
  const std::string product = train.micro_batch > 0 ? str("data.context * train.micro_batch (", data.context,
                                                          " * ", sequences, " = ", unit, ")")
                                                    : str("data.context (", data.context, ")");
  f.check(train.tokens_per_step % unit == 0, "train.tokens_per_step",
          str("must be a multiple of ", product, ", got ", train.tokens_per_step,
              "; nearest: ", neighbours(train.tokens_per_step, unit)));
}

}  // namespace asplash::train
