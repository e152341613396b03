// Faults put into packed data: each must be refused, and the message must name the file.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/data/dataset.h"
#include "asplash/data/shard_format.h"
#include "data/packed_data.h"
#include "temporary_folder.h"

namespace asplash::data {
namespace {

namespace fs = std::filesystem;

void write(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

/// Opens the data and reads all of it: every token and every document. Returns the error's message.
std::string error_of_reading(const std::string& manifest) {
  try {
    const auto dataset = TokenDataset::open(manifest);
    std::vector<int32_t> tokens(static_cast<size_t>(dataset.tokens()));
    dataset.read(0, dataset.tokens(), tokens.data());
    for (int64_t i = 0; i < dataset.documents(); ++i) dataset.document_text_bytes(i);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class Damage : public ::testing::Test {
 protected:
  Damage() {
    manifest_ = pack_documents(folder_.path(), "train", random_documents(2000, 700, kVocab),
                               without_tokenizer(kVocab), 400000);
    shard_ = folder_.path() + "/train/shard-00001.tokens";
    content_ = read_file(shard_);
    std::memcpy(&header_, content_.data(), sizeof header_);
  }

  void expect_refused(const std::string& content, const std::string& what) {
    write(shard_, content);
    const std::string message = error_of_reading(manifest_);
    EXPECT_NE(message.find("shard-00001.tokens"), std::string::npos) << what << ": '" << message << "'";
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }

  void expect_flip_refused(uint64_t byte, const std::string& what) {
    std::string content = content_;
    content[byte] = static_cast<char>(content[byte] ^ (1 << byte % 8));
    expect_refused(content, str(what, " byte ", byte));
  }

  static constexpr int64_t kVocab = 1000;
  TemporaryFolder folder_;
  std::string manifest_;
  std::string shard_;
  std::string content_;
  ShardHeader header_{};
};

TEST_F(Damage, IsNotThereAtFirst) {
  EXPECT_EQ(error_of_reading(manifest_), "");
  EXPECT_EQ(header_.file_bytes, content_.size());
}

TEST_F(Damage, OfAnyHeaderByteIsRefused) {
  for (uint64_t byte = 0; byte < sizeof(ShardHeader) + 8; ++byte) expect_flip_refused(byte, "header");
  expect_flip_refused(kHeaderBytes - 1, "header's padding");
}

TEST_F(Damage, OfTokensIsRefused) {
  for (uint64_t byte = kHeaderBytes; byte < header_.index_offset; byte += 37123)
    expect_flip_refused(byte, "tokens");
  expect_flip_refused(header_.index_offset - 1, "last token");
}

TEST_F(Damage, OfTheIndexIsRefused) {
  for (uint64_t byte = header_.index_offset; byte < header_.table_offset; byte += 511)
    expect_flip_refused(byte, "index");
}

TEST_F(Damage, OfTheTableIsRefused) {
  for (uint64_t byte = header_.table_offset; byte < header_.file_bytes; ++byte)
    expect_flip_refused(byte, "table");
}

TEST_F(Damage, ByTruncationIsRefused) {
  for (const size_t size :
       {size_t{0}, size_t{10}, size_t{kHeaderBytes}, content_.size() / 2, content_.size() - 1})
    expect_refused(content_.substr(0, size), str("truncated to ", size));
  expect_refused(content_ + '\0', "one byte more");
}

TEST_F(Damage, ByAnotherShardIsRefused) {
  expect_refused(read_file(folder_.path() + "/train/shard-00000.tokens"), "another shard");
}

TEST_F(Damage, ByAMissingShardIsRefused) {
  fs::remove(shard_);
  EXPECT_NE(error_of_reading(manifest_).find("shard-00001.tokens: this shard is missing"), std::string::npos);
}

TEST_F(Damage, IsFoundByVerify) {
  std::string content = content_;
  content[header_.index_offset - 100] ^= 1;
  const auto dataset = TokenDataset::open(manifest_);
  std::vector<int32_t> tokens(static_cast<size_t>(dataset.tokens()));
  dataset.read(0, dataset.tokens(), tokens.data());
  dataset.verify();
  // In place, under the map of the data set that has checked this block before.
  std::fstream(shard_, std::ios::in | std::ios::out | std::ios::binary)
      .write(content.data(), static_cast<std::streamsize>(content.size()));
  EXPECT_THROW(dataset.verify(), Error);
}

TEST_F(Damage, OpensOtherShardsOnlyWhenTheyAreRead) {
  std::string content = content_;
  content[kHeaderBytes] ^= 1;
  write(shard_, content);
  const auto dataset = TokenDataset::open(manifest_);
  int32_t token = 0;
  dataset.read(0, 1, &token);
  EXPECT_THROW(dataset.read(400000 + 1000, 1, &token), Error);
}

TEST_F(Damage, OfShardsOfAnotherVocabularyIsRefused) {
  // A shard whose own sums are right, but which was packed with another vocabulary and another tokenizer.
  for (const auto& tokenizer :
       {without_tokenizer(kVocab + 1), TokenizerInfo{"", std::string(32, 'a'), kVocab, -1, -1}}) {
    const TemporaryFolder other;
    pack_documents(other.path(), "train", random_documents(2000, 700, kVocab), tokenizer, 400000);
    expect_refused(read_file(other.path() + "/train/shard-00001.tokens"), "other tokenizer");
  }
}

/// Replaces text in the manifest; the result must be refused and the message name the manifest or a shard.
class DamagedManifest : public Damage {
 protected:
  std::string error_after(const std::string& from, const std::string& to) {
    std::string content = read_file(manifest_);
    const size_t at = content.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    write(manifest_, content.replace(at, from.size(), to));
    return error_of_reading(manifest_);
  }
};

TEST_F(DamagedManifest, NamesTheKey) {
  EXPECT_NE(error_after("\"vocab_size\": 1000", "\"vocab_size\": \"x\"")
                .find("manifest.json: tokenizer.vocab_size"),
            std::string::npos);
}
TEST_F(DamagedManifest, NamesTheMissingKey) {
  EXPECT_NE(error_after("\"documents\"", "\"docs\"").find("'documents' is missing"), std::string::npos);
}
TEST_F(DamagedManifest, RefusesAnotherFormat) {
  EXPECT_NE(error_after("asplash-tokens", "other").find("format is 'other'"), std::string::npos);
}
TEST_F(DamagedManifest, RefusesALaterVersion) {
  EXPECT_NE(error_after("\"format_version\": 2", "\"format_version\": 3").find("format_version is 3"),
            std::string::npos);
}
TEST_F(DamagedManifest, RefusesOtherCounts) {
  EXPECT_NE(error_after("\"text_bytes\": ", "\"text_bytes\": 1").find("manifest is damaged"),
            std::string::npos);
}
TEST_F(DamagedManifest, OfTheFirstVersionStillOpens) {
  std::string content = read_file(manifest_);
  content = content.substr(0, content.rfind(",\n  \"xxh3_128_of_the_above\"")) + "\n}\n";
  const std::string version = "\"format_version\": ";
  write(manifest_, content.replace(content.find(version) + version.size(), 1, "1"));
  EXPECT_EQ(error_of_reading(manifest_), "");
  EXPECT_NE(error_after("\"text_bytes\": ", "\"text_bytes\": 1").find("manifest is damaged"),
            std::string::npos);
}
TEST_F(DamagedManifest, OfAnyBitIsRefused) {
  const std::string whole = read_file(manifest_);
  ASSERT_EQ(error_of_reading(manifest_), "");
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string content = whole;
      content[at] = static_cast<char>(content[at] ^ (1 << bit));
      std::ofstream(manifest_, std::ios::binary) << content;
      std::string error;
      try {
        TokenDataset::open(manifest_);
      } catch (const Error& refusal) {
        error = refusal.what();
      }
      ASSERT_NE(error.find("manifest.json"), std::string::npos)
          << "byte " << at << ", bit " << bit << ": " << error;
    }
  }
}
TEST_F(DamagedManifest, RefusesTruncatedJson) {
  write(manifest_, read_file(manifest_).substr(0, 200));
  EXPECT_NE(error_of_reading(manifest_).find("manifest.json: not valid JSON"), std::string::npos);
}

}  // namespace
}  // namespace asplash::data
