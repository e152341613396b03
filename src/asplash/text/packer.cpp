#include "asplash/text/packer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "asplash/base/error.h"
#include "asplash/base/log.h"
#include "asplash/base/progress.h"
#include "asplash/base/text.h"
#include "asplash/data/new_folder.h"
#include "asplash/data/shard_writer.h"
#include "asplash/text/encoding_pipeline.h"
#include "asplash/text/tokenizer.h"

namespace asplash::text {
namespace fs = std::filesystem;
namespace {

/// Keeps two runs from packing into one folder at the same time; the lock ends with the process.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder) : made_(folder) {
    fd_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd_ < 0) fail("cannot open folder ", folder, ": ", std::strerror(errno));
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      ::close(fd_);
      fail("--output ", folder, ": another asplash-data is packing into this folder; wait for it to end");
    }
  }
  ~FolderLock() { ::close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  data::NewFolder made_;
  int fd_ = -1;
};

/// Names of all splits: the rest last, as Splitter numbers them.
std::vector<std::string> split_names(const PackOptions& options) {
  std::vector<std::string> names;
  for (const SplitShare& split : options.splits) names.push_back(split.name);
  check_split_name(options.rest);
  if (std::find(names.begin(), names.end(), options.rest) != names.end())
    fail("--split names '", options.rest,
         "', which is the split of all other documents; name that one by --name");
  names.push_back(options.rest);
  return names;
}

/// Refuses to replace packed splits unasked, or to mix tokenizers in one folder.
void check_output(const PackOptions& options, const std::vector<std::string>& names,
                  const Tokenizer& tokenizer) {
  if (!fs::exists(options.output)) return;
  for (const auto& entry : fs::directory_iterator(options.output)) {
    if (!fs::exists(entry.path() / "manifest.json")) continue;
    const std::string name = entry.path().filename().string();
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      if (!options.overwrite)
        fail("--output ", options.output, ": the split '", name,
             "' is packed there already; --overwrite replaces it");
    } else if (data::read_manifest(entry.path().string()).tokenizer_hash != tokenizer.hash()) {
      if (!options.overwrite)
        fail("--output ", options.output, ": its split '", name, "' was packed with another tokenizer than ",
             options.tokenizer, "; use another folder (--overwrite makes that split unreadable)");
      log::warning(str(entry.path().string(), " was packed with another tokenizer: it must be packed again"));
    } else {
      log::info(str(entry.path().string(), " stays as it is"));
    }
  }
}

data::TokenizerInfo describe(const PackOptions& options, const Tokenizer& tokenizer) {
  data::TokenizerInfo info{options.tokenizer, tokenizer.hash(), tokenizer.vocab_size(), -1, -1};
  if (options.bos) info.bos_id = tokenizer.bos_id();
  if (options.eos) info.eos_id = tokenizer.eos_id();
  if (options.bos && info.bos_id < 0)
    fail(options.tokenizer, ": has no begin-of-document token; use --no-bos");
  if (options.eos && info.eos_id < 0) fail(options.tokenizer, ": has no end-of-document token; use --no-eos");
  return info;
}

data::Provenance provenance_of(const PackOptions& options, const std::vector<CorpusFile>& files) {
  data::Provenance provenance;
  for (const CorpusFile& file : files)
    provenance.sources.emplace_back(fs::absolute(file.path).lexically_normal().string(), file.bytes);
  std::vector<std::string> splits;
  for (const SplitShare& split : options.splits) splits.push_back(str(split.name, "=", split.share));
  provenance.options = {
      {"tokenizer", fs::absolute(options.tokenizer).lexically_normal().string()},
      {"split", join(splits, ",")},
      {"rest", options.rest},
      {"split_seed", str(options.split_seed)},
      {"text_field", options.corpus.text_field},
      {"invalid_utf8", options.corpus.invalid_utf8 == InvalidUtf8::replace ? "replace" : "refuse"},
      {"shard_tokens", str(options.shard_tokens)},
  };
  return provenance;
}

/// Puts encoded documents into their splits.
class Output {
 public:
  Output(const PackOptions& options, const std::vector<std::string>& names,
         const data::TokenizerInfo& tokenizer)
      : splitter_(options.splits, options.split_seed) {
    for (const std::string& name : names)
      splits_.emplace_back(options.output, name, tokenizer, options.shard_tokens);
  }

  void write(const EncodingTask& task) {
    size_t ids_begin = 0;
    for (const Segment& segment : task.segments) {
      data::SplitWriter& split = splits_[splitter_.split_of(segment.document)];
      if (segment.first()) split.begin_document();
      split.append(task.ids.data() + ids_begin, static_cast<int64_t>(segment.ids_end - ids_begin));
      if (segment.last()) split.end_document(static_cast<int64_t>(segment.text->size()));
      ids_begin = segment.ids_end;
      text_bytes_ += static_cast<double>(segment.end - segment.begin);
    }
    tokens_ += static_cast<double>(task.ids.size());
  }

  std::vector<data::SplitWriter>& splits() { return splits_; }
  double tokens() const { return tokens_; }
  double text_bytes() const { return text_bytes_; }

 private:
  Splitter splitter_;
  std::vector<data::SplitWriter> splits_;
  double tokens_ = 0;
  double text_bytes_ = 0;
};

/// All shards are on the disk: makes the splits visible, or refuses if one is empty.
void publish(const PackOptions& options, const std::vector<std::string>& names, Output& output,
             const data::TokenizerInfo& tokenizer, const data::Provenance& provenance) {
  int64_t documents = 0;
  for (const auto& split : output.splits()) documents += split.documents();
  if (documents == 0) fail("--input: there is no text in it (", join(options.corpus.inputs, ", "), ")");
  for (size_t i = 0; i < names.size(); ++i) {
    if (output.splits()[i].documents() == 0)
      fail("--split: '", names[i], "' got none of the ", documents,
           " documents; give it a larger share, more documents, or another --split-seed");
    output.splits()[i].finish();
  }
  data::publish_tokenizer(options.output, tokenizer);
  for (auto& split : output.splits()) split.publish(provenance);
}

}  // namespace

PackReport pack(const PackOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  const std::vector<std::string> names = split_names(options);
  const Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  const data::TokenizerInfo info = describe(options, tokenizer);
  CorpusReader reader(options.corpus);
  const FolderLock lock(options.output);
  check_output(options, names, tokenizer);
  if (!tokenizer.round_trips())
    log::warning(
        str(options.tokenizer, " normalizes text or has no byte fallback: what it decodes may differ"));

  Output output(options, names, info);
  Progress progress({"pack files", "B", static_cast<double>(reader.bytes_total())});
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const EncodingOptions encoding{options.threads > 0 ? options.threads : cores,
                                 static_cast<int32_t>(info.bos_id), static_cast<int32_t>(info.eos_id)};
  PackReport report;
  report.empty_documents = encode_corpus(reader, tokenizer, encoding, [&](const EncodingTask& task) {
    output.write(task);
    progress.update(static_cast<double>(task.bytes_consumed),
                    str(human_count(output.tokens()), " tokens, ",
                        human_bytes(output.text_bytes() / seconds()), "/s of text"));
  });
  publish(options, names, output, info, provenance_of(options, reader.files()));
  report.seconds = seconds();
  progress.finish(str(human_count(output.tokens()), " tokens"));
  report.replaced = reader.replaced();
  for (size_t i = names.size(); i-- > 0;) {
    const data::SplitWriter& split = output.splits()[i];
    report.splits.push_back({names[i], split.documents(), split.tokens(), split.text_bytes()});
  }
  std::reverse(report.splits.begin() + 1, report.splits.end());
  return report;
}

}  // namespace asplash::text
