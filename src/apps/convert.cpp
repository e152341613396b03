// asplash-convert: Hugging Face checkpoints in and out.
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "asplash/base/text.h"
#include "asplash/checkpoint/hf_export.h"
#include "asplash/checkpoint/hf_import.h"
#include "run_program.h"

namespace {

using asplash::grouped;

struct Arguments {
  asplash::checkpoint::ImportOptions import;
  asplash::checkpoint::ExportOptions output;
};

CLI::App* declare_from_hf(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand("from-hf",
                                     "Make a checkpoint of a Hugging Face folder, to evaluate or "
                                     "to train on");
  auto& o = arguments.import;
  command->add_option("--input", o.input, "folder with config.json, safetensors and tokenizer.model")
      ->required()
      ->type_name("DIR");
  command->add_option("--output", o.output, "checkpoint folder to make")->required()->type_name("DIR");
  command->add_option("--tokenizer", o.tokenizer_file, "SentencePiece model, where it lies elsewhere")
      ->type_name("FILE.model");
  command->footer(
      "Llama, Mistral without sliding window, Qwen3.\n"
      "Example:\n  asplash-convert from-hf --input open_llama_3b --output start\n"
      "  asplash-data pack --tokenizer start/tokenizer.model --input 'text/*.txt' --output data\n"
      "  and in the configuration:  base: start/config.yaml,  train: {initial_weights: start}");
  return command;
}

CLI::App* declare_to_hf(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand("to-hf", "Write a softmax model as transformers reads it");
  auto& o = arguments.output;
  command
      ->add_option("--checkpoint", o.checkpoint, "checkpoint folder, or a run folder (its newest checkpoint)")
      ->required()
      ->type_name("DIR");
  command->add_option("--output", o.output, "folder to make")->required()->type_name("DIR");
  command->add_option("--dtype", o.dtype, "of the weights")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}))
      ->capture_default_str();
  command->footer("Example:\n  asplash-convert to-hf --checkpoint runs/lm_8k_softmax --output lm_8k_hf");
  return command;
}

void from_hf(const Arguments& arguments) {
  const auto report = asplash::checkpoint::import_hugging_face(arguments.import);
  std::cout << arguments.import.output << ": " << grouped(report.parameters) << " parameters"
            << (report.dtype.empty() ? "" : " (" + report.dtype + " before, now fp32)") << ", context "
            << grouped(report.context) << ", vocabulary " << grouped(report.vocab_size) << ", tokenizer "
            << grouped(report.tokenizer_pieces) << " pieces\n";
  for (const std::string& note : report.notes) std::cout << "note: " << note << "\n";
  std::cout.flush();
}

void to_hf(const Arguments& arguments) {
  const std::string architecture = asplash::checkpoint::export_hugging_face(arguments.output);
  std::cout << arguments.output.output << ": " << architecture << ", " << arguments.output.dtype << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Hugging Face checkpoints (Llama family, safetensors, SentencePiece) in and out",
               "asplash-convert");
  app.require_subcommand(1);
  Arguments arguments;
  const CLI::App* import = declare_from_hf(app, arguments);
  declare_to_hf(app, arguments);
  return asplash::run_program(app, argc, argv, [&] {
    import->parsed() ? from_hf(arguments) : to_hf(arguments);
    return 0;
  });
}
