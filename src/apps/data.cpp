// asplash-data: trains tokenizers, packs text into token shards, shows what shards hold.
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "asplash/base/error.h"
#include "asplash/base/interrupt.h"
#include "asplash/base/text.h"
#include "asplash/text/inspect.h"
#include "asplash/text/packer.h"
#include "asplash/text/tokenizer_training.h"
#include "run_program.h"

namespace {

using namespace asplash;  // NOLINT: this file is the program's main

struct Arguments {
  text::TokenizerTrainingOptions training;
  std::string model_file;
  text::PackOptions pack;
  std::string splits;
  bool no_bos = false;
  bool no_eos = false;
  text::InspectOptions inspect;
  std::vector<std::string> inspect_paths;
  bool json = false;
};

void declare_corpus(CLI::App& app, text::CorpusOptions& corpus) {
  app.add_option(
         "--input", corpus.inputs,
         "files, folders or 'patterns': .txt (a file is a document), .jsonl (a line is a document), each "
         "also compressed as .xz, .gz, .zst, .bz2; a document is at most 1 GiB, held in memory")
      ->required()
      ->type_name("PATH");
  app.add_option("--text-field", corpus.text_field, "field of a JSON line that holds the text")
      ->capture_default_str()
      ->type_name("NAME");
  app.add_option("--invalid-utf8", corpus.invalid_utf8,
                 "what to do with invalid UTF-8: replace (by U+FFFD, default) or refuse")
      ->transform(one_of<text::InvalidUtf8>(
          {{"replace", text::InvalidUtf8::replace}, {"refuse", text::InvalidUtf8::refuse}}))
      ->type_name("CHOICE");
}

CLI::App* declare_tokenizer(CLI::App& app, Arguments& arguments) {
  auto* command =
      app.add_subcommand("tokenizer", "Train a SentencePiece tokenizer: text round-trips exactly");
  auto& o = arguments.training;
  declare_corpus(*command, o.corpus);
  command->add_option("--output", arguments.model_file, "the model to write")
      ->required()
      ->type_name("FILE.model");
  command->add_option("--vocab-size", o.vocab_size, "pieces, 256 bytes and 3 control pieces included")
      ->capture_default_str();
  command->add_option("--model", o.model, "bpe (default) or unigram")
      ->transform(one_of<text::TokenizerModel>(
          {{"bpe", text::TokenizerModel::bpe}, {"unigram", text::TokenizerModel::unigram}}))
      ->type_name("KIND");
  command
      ->add_option("--character-coverage", o.character_coverage,
                   "share of the characters that get pieces; rarer ones are written as bytes")
      ->check(CLI::Range(0.98, 1.0))
      ->capture_default_str();
  command->add_option("--sample-bytes", o.sample_bytes, "text to train on, drawn from all lines")
      ->check(at_least(1))
      ->capture_default_str();
  command->add_option("--seed", o.seed, "of the drawing")->check(not_negative())->capture_default_str();
  command->add_flag("--split-digits", o.split_digits, "make each digit a piece of its own");
  command->footer(
      "Example:\n  asplash-data tokenizer --input books/*.jsonl.xz --vocab-size 16384 --model bpe "
      "--output data/books.model");
  return command;
}

CLI::App* declare_pack(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand("pack", "Encode text into token shards with checksums and a manifest");
  auto& o = arguments.pack;
  command->add_option("--tokenizer", o.tokenizer, "SentencePiece model")->required()->type_name("FILE.model");
  declare_corpus(*command, o.corpus);
  command->add_option("--output", o.output, "folder; each split becomes a folder in it")
      ->required()
      ->type_name("DIR");
  command->add_option("--split", arguments.splits, "further splits and their share of the documents")
      ->type_name("NAME=SHARE,...");
  command->add_option("--name", o.rest, "split of all other documents")
      ->capture_default_str()
      ->type_name("SPLIT");
  command->add_option("--split-seed", o.split_seed, "chooses other documents for the splits")
      ->check(not_negative())
      ->capture_default_str();
  command->add_option("--shard-tokens", o.shard_tokens, "a new shard begins after so many tokens")
      ->check(at_least(1))
      ->capture_default_str();
  command->add_flag("--no-bos", arguments.no_bos, "no begin-of-document token before each document");
  command->add_flag("--no-eos", arguments.no_eos, "no end-of-document token after each document");
  command->add_option("--threads", o.threads, "threads that encode (default: all cores)")
      ->check(CLI::Range(1, 1024));
  command->add_flag(
      "--overwrite", o.overwrite,
      "replace packed splits of the same names; with another tokenizer, the folder's other splits become "
      "unreadable");
  command->footer(
      "Example:\n  asplash-data pack --tokenizer data/books.model --input books/*.jsonl.xz --output "
      "data/books --split valid=0.02,test=0.02");
  return command;
}

CLI::App* declare_inspect(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand("inspect", "Show what packed data holds: counts, lengths, samples");
  auto& o = arguments.inspect;
  command
      ->add_option("PATH", arguments.inspect_paths, "manifest.json, a split's folder, or a folder of splits")
      ->required();
  command->add_option("--samples", o.samples, "decoded samples to show")->check(at_least(0));
  command->add_option("--sample-tokens", o.sample_tokens, "length of a sample")
      ->check(at_least(1))
      ->capture_default_str();
  command->add_option("--seed", o.seed, "of the samples' places")
      ->check(not_negative())
      ->capture_default_str();
  command->add_flag("--verify", o.verify, "check every block of every shard");
  command->add_flag("--json", arguments.json, "print JSON");
  command->footer("Example:\n  asplash-data inspect data/books --samples 3 --verify");
  return command;
}

void run_tokenizer(const Arguments& arguments) {
  const auto report = text::train_tokenizer(arguments.training, arguments.model_file);
  std::cout << arguments.model_file << ": " << arguments.training.vocab_size << " pieces from "
            << human_bytes(static_cast<double>(report.sampled_bytes)) << " of "
            << human_bytes(static_cast<double>(report.text_bytes)) << " in " << grouped(report.documents)
            << " documents; hash " << report.hash << "\n";
}

void run_pack(Arguments& arguments) {
  auto& options = arguments.pack;
  options.bos = !arguments.no_bos;
  options.eos = !arguments.no_eos;
  options.splits = text::parse_splits(arguments.splits);
  const auto report = text::pack(options);
  double text_bytes = 0;
  std::vector<std::vector<std::string>> rows{{"split", "documents", "tokens", "text", "manifest"}};
  for (const auto& split : report.splits) {
    rows.push_back({split.name, grouped(split.documents), grouped(split.tokens),
                    human_bytes(static_cast<double>(split.text_bytes)),
                    options.output + "/" + split.name + "/manifest.json"});
    text_bytes += static_cast<double>(split.text_bytes);
  }
  std::cout << table(rows) << human_duration(report.seconds) << ", "
            << human_bytes(text_bytes / report.seconds) << "/s of text\n";
  if (report.empty_documents > 0)
    std::cout << grouped(report.empty_documents) << " documents without text were left out\n";
  if (report.replaced > 0)
    std::cout << grouped(report.replaced) << " sequences of invalid UTF-8 were replaced by U+FFFD\n";
}

void run_inspect(const Arguments& arguments) {
  const auto reports = text::inspect(arguments.inspect_paths, arguments.inspect);
  std::cout << (arguments.json ? text::to_json(reports) : text::to_text(reports));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Text in, token shards out: train a tokenizer, pack a corpus, look at the result",
               "asplash-data");
  app.require_subcommand(1);
  app.footer("asplash-data COMMAND --help tells more about each command.");
  Arguments arguments;
  const auto* tokenizer = declare_tokenizer(app, arguments);
  const auto* pack = declare_pack(app, arguments);
  declare_inspect(app, arguments);
  return asplash::run_program(app, argc, argv, [&] {
    const InterruptGuard guard;
    if (tokenizer->parsed())
      run_tokenizer(arguments);
    else if (pack->parsed())
      run_pack(arguments);
    else
      run_inspect(arguments);
    return 0;
  });
}
