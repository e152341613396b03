// asplash-eval: perplexity of a checkpoint by context length.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <string>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/eval/evaluate.h"
#include "run_program.h"

namespace {

struct Arguments {
  asplash::eval::EvaluateOptions evaluate;
  std::string json_file;
  bool by_position = false;
};

void declare(CLI::App& app, Arguments& arguments) {
  auto& o = arguments.evaluate;
  app.add_option("--checkpoint", o.checkpoint, "checkpoint folder, or a run folder (its newest checkpoint)")
      ->required()
      ->type_name("DIR");
  app.add_option("--data", o.data, "packed split: its manifest.json or folder")
      ->required()
      ->type_name("MANIFEST");
  app.add_option("--context", o.contexts, "context lengths, separated by commas; may exceed the trained one")
      ->required()
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->type_name("N,N,...");
  app.add_option("--json", arguments.json_file, "also write the results to this file")->type_name("FILE");
  app.add_option("--documents", o.documents,
                 "stream: windows cross documents; packed: attention and positions do not, and a document's "
                 "first token is no target (default: as the checkpoint was trained)")
      ->check(CLI::IsMember({"stream", "packed"}));
  app.add_option("--stride", o.stride,
                 "targets scored by each window but the first; smaller than a context: windows overlap "
                 "(default: no overlap)")
      ->check(CLI::PositiveNumber);
  app.add_option("--max-tokens", o.max_tokens, "target tokens to evaluate on (default: all)")
      ->check(CLI::PositiveNumber);
  app.add_option("--batch-tokens", o.tokens_per_batch, "tokens the model reads at a time")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--device", o.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--precision", o.precision, "automatic (bf16 on a GPU, fp32 on the CPU), fp32 or bf16")
      ->check(CLI::IsMember({"automatic", "fp32", "bf16"}))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "CPU threads (default: libtorch's choice)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--by-position", arguments.by_position, "also print the loss by position in the window");
  app.footer(
      "Example:\n  asplash-eval --checkpoint runs/quickstart --data data/quickstart/valid --context "
      "128,256,512 --json evaluation.json");
}

/// An evaluation may take an hour: where its result cannot be written is told before.
void check_json_folder(const std::string& file) {
  const auto folder = std::filesystem::absolute(file).parent_path();
  if (!std::filesystem::is_directory(folder))
    asplash::fail("--json ", file, ": there is no folder ", folder.string());
}

int run(const Arguments& arguments) {
  if (!arguments.json_file.empty()) check_json_folder(arguments.json_file);
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
  CLI::App app("Perplexity and bits per byte of a checkpoint for each context length, over the same targets",
               "asplash-eval");
  Arguments arguments;
  declare(app, arguments);
  return asplash::run_program(app, argc, argv, [&] { return run(arguments); });
}
