#include "asplash/text/packer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/interrupt.h"
#include "asplash/data/dataset.h"
#include "text/sample_text.h"

namespace asplash::text {
namespace {

namespace fs = std::filesystem;

class Packer : public ::testing::Test {
 protected:
  Packer() {
    // Short, long, strange and empty documents; one of several tasks' length.
    std::mt19937_64 random(8);
    for (int i = 0; i < 400; ++i)
      texts_.push_back(i % 5 == 0 ? random_utf8(random, 30) : made_up_text(random(), i % 50 + 1));
    texts_[17] = made_up_text(99, 20000);
    texts_[18] = "";
    write_file(folder_ / "in.jsonl", json_lines(texts_));
    options_.corpus.inputs = {folder_ / "in.jsonl"};
    options_.tokenizer = SampleModels::get().path(TokenizerModel::bpe);
    options_.output = folder_ / "out";
  }

  std::string error() {
    try {
      pack(options_);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::map<std::string, std::string> files(const std::string& folder) {
    std::map<std::string, std::string> result;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file())
        result[fs::relative(entry.path(), folder).string()] = read_file(entry.path().string());
    }
    return result;
  }
  /// The texts of a split's documents, decoded.
  std::vector<std::string> documents(const std::string& split) {
    const auto dataset = data::TokenDataset::open(options_.output + "/" + split);
    const auto tokenizer = Tokenizer::load(dataset.manifest().tokenizer_file);
    std::vector<std::string> result;
    for (int64_t i = 0; i < dataset.documents(); ++i) {
      const int64_t begin = dataset.document_begin(i);
      std::vector<int32_t> ids(static_cast<size_t>(dataset.document_begin(i + 1) - begin));
      dataset.read(begin, static_cast<int64_t>(ids.size()), ids.data());
      if (options_.bos) {
        EXPECT_EQ(ids.front(), tokenizer.bos_id());
      }
      if (options_.eos) {
        EXPECT_EQ(ids.back(), tokenizer.eos_id());
      }
      result.push_back(tokenizer.decode(ids));
      EXPECT_EQ(dataset.document_text_bytes(i), static_cast<int64_t>(result.back().size()));
    }
    return result;
  }
  std::vector<std::string> not_empty() const {
    std::vector<std::string> result;
    for (const auto& text : texts_) {
      if (!text.empty()) result.push_back(text);
    }
    return result;
  }

  TemporaryFolder folder_;
  std::vector<std::string> texts_;
  PackOptions options_;
};

TEST_F(Packer, KeepsEveryDocument) {
  const PackReport report = pack(options_);
  EXPECT_EQ(documents("train"), not_empty());
  EXPECT_EQ(report.empty_documents, static_cast<int64_t>(texts_.size() - not_empty().size()));
  ASSERT_EQ(report.splits.size(), 1u);
  const auto dataset = data::TokenDataset::open(options_.output + "/train");
  EXPECT_EQ(dataset.tokens(), report.splits[0].tokens);
  EXPECT_EQ(dataset.documents(), report.splits[0].documents);
  EXPECT_EQ(dataset.manifest().tokenizer_hash, hash_file(options_.tokenizer));
}

TEST_F(Packer, KeepsDocumentsWithoutMarks) {
  options_.bos = options_.eos = false;
  pack(options_);
  EXPECT_EQ(documents("train"), not_empty());
  EXPECT_EQ(data::read_manifest(options_.output + "/train").bos_id, -1);
}

TEST_F(Packer, WritesTheSameForAnyNumberOfThreads) {
  for (const auto model : {TokenizerModel::bpe, TokenizerModel::unigram}) {
    options_.tokenizer = SampleModels::get().path(model);
    options_.overwrite = true;
    options_.splits = {{"valid", 0.1}, {"test", 0.2}};
    options_.shard_tokens = 20000;
    options_.threads = 1;
    pack(options_);
    const auto one = files(options_.output);
    EXPECT_GT(one.size(), 7u);
    for (const int threads : {2, 5}) {
      options_.threads = threads;
      pack(options_);
      EXPECT_EQ(files(options_.output), one);
    }
  }
}

TEST_F(Packer, DealsDocumentsToSplits) {
  options_.splits = {{"valid", 0.1}, {"test", 0.3}};
  options_.rest = "learn";
  const auto report = pack(options_);
  ASSERT_EQ(report.splits.size(), 3u);
  EXPECT_EQ(report.splits[0].name, "learn");
  EXPECT_EQ(report.splits[1].name, "valid");
  std::vector<std::string> all;
  for (const char* split : {"learn", "valid", "test"}) {
    for (auto& text : documents(split)) all.push_back(text);
  }
  auto expected = not_empty();
  std::sort(all.begin(), all.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(all, expected);
}

TEST_F(Packer, RefusesToReplaceUnasked) {
  pack(options_);
  const auto before = files(options_.output);
  EXPECT_NE(error().find("'train' is packed there already; --overwrite"), std::string::npos) << error();
  EXPECT_EQ(files(options_.output), before);
  options_.overwrite = true;
  EXPECT_EQ(error(), "");
  // Another split goes beside it; with another tokenizer only when asked for.
  options_.overwrite = false;
  options_.rest = "more";
  EXPECT_EQ(error(), "");
  options_.rest = "other";
  options_.tokenizer = SampleModels::get().path(TokenizerModel::unigram);
  EXPECT_NE(error().find("another tokenizer"), std::string::npos) << error();
}

TEST_F(Packer, LeavesWhatWasThereWhenItFails) {
  pack(options_);
  const auto before = files(options_.output);
  options_.overwrite = true;
  options_.shard_tokens = 1000;
  write_file(folder_ / "in.jsonl", json_lines(texts_) + "{\"text\": ");
  EXPECT_NE(error().find("in.jsonl:401: not valid JSON"), std::string::npos) << error();
  EXPECT_EQ(files(options_.output), before);
  EXPECT_EQ(documents("train"), not_empty());
}

TEST_F(Packer, LeavesNothingWhenInterrupted) {
  options_.shard_tokens = 1000;
  {
    const InterruptGuard guard;
    std::raise(SIGINT);
    EXPECT_NE(error().find("interrupted"), std::string::npos);
  }
  EXPECT_FALSE(fs::exists(options_.output));
  // The signal is remembered until the next guard.
  const InterruptGuard guard;
  EXPECT_EQ(error(), "");
}

TEST_F(Packer, RefusesAFolderThatAnotherRunPacksInto) {
  fs::create_directories(options_.output);
  const int folder = ::open(options_.output.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ASSERT_EQ(::flock(folder, LOCK_EX | LOCK_NB), 0);
  EXPECT_NE(error().find("another asplash-data is packing"), std::string::npos) << error();
  ::close(folder);
  EXPECT_EQ(error(), "");
}

TEST_F(Packer, RefusesSplitsWithoutDocuments) {
  write_file(folder_ / "in.jsonl", json_lines({"a", "b"}));
  options_.splits = {{"valid", 0.001}};
  EXPECT_NE(error().find("'valid' got none of the 2 documents"), std::string::npos) << error();
  write_file(folder_ / "in.jsonl", json_lines({"", ""}));
  EXPECT_NE(error().find("no text"), std::string::npos) << error();
  EXPECT_FALSE(fs::exists(options_.output));
}

TEST_F(Packer, RefusesBadNames) {
  options_.rest = "../up";
  EXPECT_NE(error().find("split name"), std::string::npos);
  options_.rest = "valid";
  options_.splits = {{"valid", 0.1}};
  EXPECT_NE(error().find("--name"), std::string::npos);
}

TEST_F(Packer, CountsReplacedBytes) {
  write_file(folder_ / "in.jsonl", "{\"text\": \"x\xFF\"}\n");
  EXPECT_EQ(pack(options_).replaced, 1);
}

}  // namespace
}  // namespace asplash::text
