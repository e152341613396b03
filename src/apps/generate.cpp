// asplash-generate: a checkpoint continues a text.
#include <CLI/CLI.hpp>
#include <iostream>
#include <iterator>
#include <string>

#include "asplash/base/files.h"
#include "asplash/eval/continue_text.h"
#include "run_program.h"

namespace {

struct Arguments {
  asplash::eval::ContinueTextOptions text;
  std::string prompt_file;
  bool no_stop_at_eos = false;
  bool continuation_only = false;
};

void declare(CLI::App& app, Arguments& arguments) {
  auto& o = arguments.text;
  app.add_option("--checkpoint", o.checkpoint, "checkpoint folder, or a run folder (its newest checkpoint)")
      ->required()
      ->type_name("DIR");
  auto* prompt = app.add_option_group("prompt");
  prompt->add_option("--prompt", o.prompt, "text to continue")->type_name("TEXT");
  prompt->add_option("--prompt-file", arguments.prompt_file, "file that holds it; - reads standard input")
      ->type_name("FILE");
  prompt->require_option(1);
  app.add_option("--max-tokens", o.max_tokens, "tokens to generate at most")
      ->check(asplash::at_least(1))
      ->capture_default_str();
  app.add_option("--temperature", o.sampling.temperature,
                 "0: always the likeliest token; higher: more varied")
      ->capture_default_str();
  app.add_option("--top-k", o.sampling.top_k, "draw from the K likeliest tokens (default: all)");
  app.add_option("--top-p", o.sampling.top_p, "draw from the likeliest tokens that hold this probability")
      ->capture_default_str();
  app.add_option("--seed", o.seed, "same seed, same text (default: a new one, told at the end)")
      ->check(asplash::not_negative())
      ->type_name("UINT");
  app.add_flag("--no-stop-at-eos", arguments.no_stop_at_eos, "go on where the model ends the document");
  app.add_flag("--continuation-only", arguments.continuation_only, "do not print the prompt");
  app.add_option("--device", o.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--precision", o.precision, "automatic (bf16 on a GPU, fp32 on the CPU), fp32 or bf16")
      ->check(CLI::IsMember({"automatic", "fp32", "bf16"}))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "CPU threads (default: libtorch's choice)")
      ->check(CLI::Range(1, 1024));
  app.footer(
      "Example:\n  asplash-generate --checkpoint runs/quickstart --prompt 'In the beginning' --temperature "
      "0.8 --top-p 0.95 --seed 1");
}

std::string read_prompt(const std::string& file) {
  if (file != "-") return asplash::read_file(file);
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Continues a text, token by token, as it comes", "asplash-generate");
  Arguments arguments;
  declare(app, arguments);
  return asplash::run_program(app, argc, argv, [&] {
    arguments.text.stop_at_eos = !arguments.no_stop_at_eos;
    arguments.text.print_prompt = !arguments.continuation_only;
    if (!arguments.prompt_file.empty()) arguments.text.prompt = read_prompt(arguments.prompt_file);
    asplash::eval::continue_text(arguments.text, std::cout);
    return 0;
  });
}
