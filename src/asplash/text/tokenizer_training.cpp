#include "asplash/text/tokenizer_training.h"

#include <sentencepiece_trainer.h>

#include <filesystem>
#include <unordered_map>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/interrupt.h"
#include "asplash/base/log.h"
#include "asplash/base/progress.h"
#include "asplash/base/text.h"
#include "asplash/data/new_folder.h"
#include "asplash/text/line_sample.h"

namespace asplash::text {
namespace {

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return at_ == lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t at_ = 0;
};

std::unordered_map<std::string, std::string> trainer_arguments(const TokenizerTrainingOptions& o) {
  return {
      {"model_type", o.model == TokenizerModel::bpe ? "bpe" : "unigram"},
      {"vocab_size", str(o.vocab_size)},
      {"character_coverage", str(o.character_coverage)},
      {"split_digits", o.split_digits ? "true" : "false"},
      // Part of the model's file, and of the order in which unigram training adds: the same on all machines.
      {"num_threads", "16"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"byte_fallback", "true"},
      // The trainer takes no line breaks from its sentences, and tabs are its own separators.
      {"user_defined_symbols", "\n,\t"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"max_sentence_length", "1000000"},
      {"minloglevel", "2"},
  };
}

std::vector<std::string> sample_lines(const TokenizerTrainingOptions& options,
                                      TokenizerTrainingReport& report) {
  CorpusReader reader(options.corpus);
  Progress progress({"read", "B", static_cast<double>(reader.bytes_total())});
  LineSample sample(options.sample_bytes, options.seed);
  Document document;
  while (reader.next(document)) {
    if (interrupted()) fail("interrupted: no tokenizer was written");
    ++report.documents;
    report.text_bytes += static_cast<int64_t>(document.text.size());
    sample.add_document(document.text);
    progress.update(static_cast<double>(reader.bytes_consumed()));
  }
  progress.finish();
  if (sample.lines() == 0)
    fail("--input names ", reader.files().size(), " files, but there is no text in them");
  report.sampled_bytes = sample.bytes();
  report.sampled_lines = static_cast<int64_t>(sample.lines());
  return sample.take();
}

}  // namespace

TokenizerTrainingReport train_tokenizer(const TokenizerTrainingOptions& options, const std::string& output) {
  if (options.vocab_size < 260)
    fail("--vocab-size must be at least 260 (256 bytes, 3 control pieces, 1 of text), got ",
         options.vocab_size);
  if (std::filesystem::is_directory(output)) fail(output, ": is a folder; --output is the model's file");
  const data::NewFolder folder(std::filesystem::absolute(output).parent_path().string());

  TokenizerTrainingReport report;
  const std::vector<std::string> lines = sample_lines(options, report);
  log::info(str("train ", options.model == TokenizerModel::bpe ? "bpe" : "unigram", " on ",
                human_bytes(static_cast<double>(report.sampled_bytes)), " in ", grouped(report.sampled_lines),
                " lines"));
  Lines iterator(lines);
  std::string model;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train(trainer_arguments(options), &iterator, &model);
  if (!status.ok()) {
    // "Internal: src/trainer_interface.cc(582) [(trainer_spec_.vocab_size()) == ...] Vocabulary size too high
    // ..."
    const std::string message = status.error_message();
    const size_t end = message.rfind("] ");
    const bool explained = end != std::string::npos && end + 2 < message.size();
    fail("--vocab-size ", options.vocab_size, ": ", explained ? message.substr(end + 2) : message);
  }
  write_file_atomically(output, model);
  report.hash = hash_bytes(model.data(), model.size());
  return report;
}

}  // namespace asplash::text
