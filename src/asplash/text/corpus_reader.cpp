#include "asplash/text/corpus_reader.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/text.h"
#include "asplash/text/byte_source.h"
#include "asplash/text/json_escapes.h"
#include "asplash/text/utf8.h"

namespace asplash::text {
namespace {

std::string text_of(const std::string& line, const std::string& field, const std::string& origin) {
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& error) {
    fail(origin, ": not valid JSON: ", json_reason(error));
  }
  if (!object.is_object()) fail(origin, ": must be a JSON object with the field '", field, "'");
  const auto found = object.find(field);
  if (found == object.end()) {
    std::string keys;
    for (const auto& item : object.items()) keys += (keys.empty() ? "" : ", ") + item.key();
    fail(origin, ": has no field '", field, "' (it has: ", shown(keys, 200),
         "); name the right one with --text-field");
  }
  if (!found->is_string()) fail(origin, ": field '", field, "' must be a string, is ", found->type_name());
  return std::move(found->get_ref<std::string&>());
}

}  // namespace

struct CorpusReader::Impl {
  CorpusOptions options;
  std::vector<CorpusFile> files;
  size_t current = 0;  // file at hand, or the next one
  std::unique_ptr<ByteSource> source;
  std::unique_ptr<LineReader> lines;
  int64_t line_number = 0;
  int64_t bytes_total = 0;
  int64_t bytes_before = 0;  // of the files that are done
  int64_t replaced = 0;

  void make_valid(std::string& text, const std::string& origin) {
    if (options.invalid_utf8 == InvalidUtf8::replace) {
      replaced += replace_invalid_utf8(text);
      return;
    }
    const size_t at = find_invalid_utf8(text);
    if (at != std::string::npos)
      fail(origin, ": invalid UTF-8 at byte ", at, " of the ", lines ? "line" : "file",
           "; repair it, or use --invalid-utf8 replace");
  }

  /// What JSON text may hold although it is valid UTF-8.
  void make_escapes_valid(std::string& line, const std::string& origin) {
    if (options.invalid_utf8 == InvalidUtf8::replace) {
      replaced += replace_lone_surrogates(line);
      return;
    }
    const size_t at = find_lone_surrogate(line);
    if (at != std::string::npos)
      fail(origin, ": the escape ", line.substr(at, 6), " at byte ", at,
           " is half of a surrogate pair, which is no text; repair it, or use --invalid-utf8 replace");
  }

  void open() {
    source = open_bytes(files[current].path);
    if (files[current].format == CorpusFormat::json_lines)
      lines = std::make_unique<LineReader>(*source, options.most_document_bytes);
    line_number = 0;
  }

  void close() {
    lines.reset();
    source.reset();
    bytes_before += files[current].bytes;
    ++current;
  }

  void read_text(Document& document) {
    document.origin = files[current].path;
    document.text = read_all(*source, options.most_document_bytes);
    if (document.text.size() > options.most_document_bytes)
      fail(document.origin, ": is longer than ",
           human_bytes(static_cast<double>(options.most_document_bytes)),
           ", but a .txt file is one document, which is held in memory; split it, or make it JSON Lines with "
           "a document a line");
    make_valid(document.text, document.origin);
    close();
  }

  bool read_line(Document& document) {
    std::string line;
    while (lines->next(line)) {
      ++line_number;
      if (line.size() > options.most_document_bytes)
        fail(files[current].path, ":", line_number, ": the line is longer than ",
             human_bytes(static_cast<double>(options.most_document_bytes)),
             ", the most that a document may be; split it");
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      document.origin = str(files[current].path, ":", line_number);
      make_valid(line, document.origin);
      make_escapes_valid(line, document.origin);
      document.text = text_of(line, options.text_field, document.origin);
      return true;
    }
    close();
    return false;
  }
};

CorpusReader::CorpusReader(const CorpusOptions& options) : impl_(std::make_unique<Impl>()) {
  impl_->options = options;
  impl_->files = find_corpus_files(options.inputs);
  for (const CorpusFile& file : impl_->files) impl_->bytes_total += file.bytes;
}

CorpusReader::~CorpusReader() = default;
CorpusReader::CorpusReader(CorpusReader&&) noexcept = default;
CorpusReader& CorpusReader::operator=(CorpusReader&&) noexcept = default;

bool CorpusReader::next(Document& document) {
  while (impl_->current < impl_->files.size()) {
    if (!impl_->source) impl_->open();
    if (!impl_->lines) {
      impl_->read_text(document);
      return true;
    }
    if (impl_->read_line(document)) return true;
  }
  return false;
}

const std::vector<CorpusFile>& CorpusReader::files() const { return impl_->files; }
int64_t CorpusReader::bytes_total() const { return impl_->bytes_total; }
int64_t CorpusReader::bytes_consumed() const {
  return impl_->bytes_before + (impl_->source ? impl_->source->consumed() : 0);
}
int64_t CorpusReader::replaced() const { return impl_->replaced; }

}  // namespace asplash::text
