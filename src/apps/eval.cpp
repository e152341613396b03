// asplash-eval: perplexity of a checkpoint by context length, or what its attention is given.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/eval/capture.h"
#include "asplash/eval/evaluate.h"
#include "run_program.h"

namespace {

struct Arguments {
  asplash::eval::EvaluateOptions evaluate;
  asplash::eval::CaptureOptions capture;  // but for what both have, which stands in `evaluate`
  std::string json_file;
  bool by_position = false;
};

/// The options of a measurement alone.
std::vector<CLI::Option*> declare_measuring(CLI::App& app, Arguments& arguments) {
  auto& o = arguments.evaluate;
  return {
      app.add_option("--context", o.contexts,
                     "context lengths, separated by commas; may exceed the trained one")
          ->delimiter(',')
          ->check(asplash::at_least(1))
          ->type_name("N,N,..."),
      app.add_option("--json", arguments.json_file, "also write the results to this file")->type_name("FILE"),
      app.add_option(
             "--logits", o.logits_file,
             "also write tokens and logits of the first window of the shortest context to this file, to "
             "be compared with another program's")
          ->type_name("FILE.safetensors"),
      app.add_option("--stride", o.stride,
                     "targets scored by each window but the first; smaller than a context: windows overlap "
                     "(default: no overlap)")
          ->check(asplash::at_least(1)),
      app.add_option("--max-tokens", o.max_tokens, "target tokens to evaluate on (default: all)")
          ->check(asplash::at_least(1)),
      app.add_option("--batch-tokens", o.tokens_per_batch, "tokens the model reads at a time")
          ->check(asplash::at_least(1))
          ->capture_default_str(),
      app.add_flag("--by-position", arguments.by_position, "also print the loss by position in the window")};
}

/// --capture, which takes the place of a measurement, and what belongs to it.
void declare_capturing(CLI::App& app, asplash::eval::CaptureOptions& o,
                       const std::vector<CLI::Option*>& measuring) {
  CLI::Option* capture =
      app.add_option("--capture", o.file,
                     "instead of measuring, write query, key and value as the attention operator gets them")
          ->type_name("FILE.safetensors");
  for (CLI::Option* option : measuring) capture->excludes(option);
  app.add_option("--capture-layers", o.layers, "layers, from 0, separated by commas (default: all)")
      ->needs(capture)
      ->delimiter(',')
      ->check(asplash::at_least(0))
      ->type_name("N,N,...");
  app.add_option("--capture-context", o.context,
                 "tokens of a window; may exceed the trained context (default: that)")
      ->needs(capture)
      ->check(asplash::at_least(1));
  app.add_option("--capture-windows", o.windows, "windows, spread over the data")
      ->needs(capture)
      ->check(asplash::at_least(1))
      ->capture_default_str();
  CLI::Option* context = measuring.front();
  app.callback([capture, context] {
    if (capture->empty() && context->empty()) throw CLI::RequiredError("--context or --capture");
  });
}

void declare(CLI::App& app, Arguments& arguments) {
  auto& o = arguments.evaluate;
  app.add_option("--checkpoint", o.checkpoint, "checkpoint folder, or a run folder (its newest checkpoint)")
      ->required()
      ->type_name("DIR");
  app.add_option("--data", o.data, "packed split: its manifest.json or folder")
      ->required()
      ->type_name("MANIFEST");
  const std::vector<CLI::Option*> measuring = declare_measuring(app, arguments);
  app.add_option("--documents", o.documents,
                 "stream: windows cross documents; packed: attention and positions do not, and a document's "
                 "first token is no target (default: as the checkpoint was trained)")
      ->check(CLI::IsMember({"stream", "packed"}));
  app.add_option("--device", o.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--precision", o.precision, "automatic (bf16 on a GPU, fp32 on the CPU), fp32 or bf16")
      ->check(CLI::IsMember({"automatic", "fp32", "bf16"}))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "CPU threads (default: libtorch's choice)")
      ->check(CLI::Range(1, 1024));
  declare_capturing(app, arguments.capture, measuring);
  app.footer(
      "Examples:\n  asplash-eval --checkpoint runs/quickstart --data data/quickstart/valid --context "
      "128,256,512 --json evaluation.json\n  asplash-eval --checkpoint runs/quickstart --data "
      "data/quickstart/valid --capture attention.safetensors --capture-context 1024");
}

/// An evaluation may take an hour: where its result cannot be written is told before.
void check_output(const char* option, const std::string& file) {
  if (file.empty()) return;
  const auto path = std::filesystem::absolute(file);
  const std::string folder = path.parent_path().string();
  if (!std::filesystem::is_directory(folder))
    asplash::fail(option, " ", file, ": there is no folder ", folder);
  if (std::filesystem::is_directory(path)) asplash::fail(option, " ", file, ": is a folder");
  if (::access(folder.c_str(), W_OK) != 0)
    asplash::fail(option, " ", file, ": cannot be written: ", std::strerror(errno));
}

int capture(const Arguments& arguments) {
  asplash::eval::CaptureOptions options = arguments.capture;
  check_output("--capture", options.file);
  const auto& shared = arguments.evaluate;
  options.checkpoint = shared.checkpoint;
  options.data = shared.data;
  options.documents = shared.documents;
  options.device = shared.device;
  options.precision = shared.precision;
  options.threads = shared.threads;
  std::cout << asplash::eval::capture(options) << std::endl;
  return 0;
}

int run(const Arguments& arguments) {
  if (!arguments.capture.file.empty()) return capture(arguments);
  check_output("--json", arguments.json_file);
  check_output("--logits", arguments.evaluate.logits_file);
  const auto report = asplash::eval::evaluate(arguments.evaluate);
  std::cout << asplash::eval::to_text(report);
  if (arguments.by_position) std::cout << "\n" << asplash::eval::positions_to_text(report);
  std::cout.flush();
  if (!arguments.json_file.empty())
    asplash::write_file_atomically(arguments.json_file, asplash::eval::to_json(report));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Perplexity and bits per byte of a checkpoint for each context length, over the same targets; or, with "
      "--capture, what its attention is given",
      "asplash-eval");
  Arguments arguments;
  declare(app, arguments);
  return asplash::run_program(app, argc, argv, [&] { return run(arguments); });
}
