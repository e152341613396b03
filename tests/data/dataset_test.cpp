#include "asplash/data/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "data/packed_data.h"
#include "temporary_folder.h"

namespace asplash::data {
namespace {

namespace fs = std::filesystem;

/// The message of the Error that the call throws; "" if it throws none.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class Dataset : public ::testing::TestWithParam<std::pair<int64_t, int64_t>> {};

TEST_P(Dataset, ReadsWhatWasWritten) {
  const auto [vocab_size, shard_tokens] = GetParam();
  const TemporaryFolder folder;
  const Documents documents = random_documents(300, 400, vocab_size);
  const auto path =
      pack_documents(folder.path(), "train", documents, without_tokenizer(vocab_size), shard_tokens);
  const std::vector<int32_t> tokens = joined(documents);

  const auto dataset = TokenDataset::open(path);
  ASSERT_EQ(dataset.tokens(), static_cast<int64_t>(tokens.size()));
  ASSERT_EQ(dataset.documents(), 300);
  EXPECT_EQ(dataset.manifest().vocab_size, vocab_size);
  EXPECT_EQ(dataset.manifest().split, "train");
  std::vector<int32_t> all(tokens.size());
  dataset.read(0, dataset.tokens(), all.data());
  EXPECT_EQ(all, tokens);

  int64_t begin = 0;
  for (int64_t i = 0; i < dataset.documents(); ++i) {
    const auto length = static_cast<int64_t>(documents[static_cast<size_t>(i)].size());
    EXPECT_EQ(dataset.document_begin(i), begin);
    EXPECT_EQ(dataset.document_text_bytes(i), 7 * i);
    if (length > 0) {
      EXPECT_EQ(dataset.document_of(begin), i);
      EXPECT_EQ(dataset.document_of(begin + length - 1), i);
    }
    begin += length;
  }
  EXPECT_EQ(dataset.document_begin(300), dataset.tokens());
  dataset.verify();

  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    const auto first = static_cast<int64_t>(random() % tokens.size());
    const auto count = static_cast<int64_t>(random() % (tokens.size() - static_cast<size_t>(first)));
    std::vector<int32_t> part(static_cast<size_t>(count));
    dataset.will_need(first, count);
    dataset.read(first, count, part.data());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), tokens.begin() + first));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Dataset,
                         ::testing::Values(std::pair{100, int64_t{1} << 28}, std::pair{65536, int64_t{5000}},
                                           std::pair{65537, int64_t{5000}}, std::pair{200000, int64_t{1}}));

TEST(DatasetOpen, TakesManyBlocks) {
  const TemporaryFolder folder;
  const Documents documents = random_documents(3, 2'000'000, 50000);
  const auto path = pack_documents(folder.path(), "train", documents, without_tokenizer(50000), 1 << 28);
  const auto dataset = TokenDataset::open(fs::path(path).parent_path().string());
  const std::vector<int32_t> tokens = joined(documents);
  std::vector<int32_t> all(tokens.size());
  dataset.read(0, dataset.tokens(), all.data());
  EXPECT_EQ(all, tokens);
}

TEST(DatasetOpen, RefusesRangesOutside) {
  const TemporaryFolder folder;
  const auto path = pack_documents(folder.path(), "train", {{1, 2, 3}}, without_tokenizer(10), 100);
  const auto dataset = TokenDataset::open(path);
  int32_t out[4];
  EXPECT_THROW(dataset.read(0, 4, out), Error);
  EXPECT_THROW(dataset.read(-1, 1, out), Error);
  EXPECT_THROW(dataset.read(int64_t{1} << 62, int64_t{1} << 62, out), Error);
  EXPECT_THROW(dataset.document_begin(2), Error);
  EXPECT_THROW(dataset.document_begin(-1), Error);
  EXPECT_THROW(dataset.document_of(3), Error);
  EXPECT_THROW(dataset.document_text_bytes(1), Error);
}

TEST(DatasetOpen, RefusesWhatAnInterruptedRunLeaves) {
  const TemporaryFolder folder;
  const std::string split = folder.path() + "/train";
  {
    SplitWriter writer(folder.path(), "train", without_tokenizer(10), 2);
    for (int i = 0; i < 3; ++i) {
      writer.begin_document();
      const int32_t tokens[] = {1, 2, 3};
      writer.append(tokens, 3);
      writer.end_document(3);
    }
    // As a killed process would leave it.
    fs::copy(split, folder.path() + "/killed", fs::copy_options::recursive);
    for (const auto& entry : fs::directory_iterator(split)) EXPECT_EQ(entry.path().extension(), ".tmp");
  }
  EXPECT_FALSE(fs::exists(split)) << "the writer made it and wrote nothing that stays";
  const std::string message = error_of([&] { TokenDataset::open(folder.path() + "/killed"); });
  EXPECT_NE(message.find("interrupted"), std::string::npos) << message;

  // The next run clears it away.
  pack_documents(folder.path(), "killed", {{1, 2}}, without_tokenizer(10), 100);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path() + "/killed"), fs::directory_iterator()), 2);
}

TEST(DatasetOpen, ReplacesTheShardsOfBefore) {
  const TemporaryFolder folder;
  pack_documents(folder.path(), "train", random_documents(50, 50, 10), without_tokenizer(10), 100);
  const auto path = pack_documents(folder.path(), "train", {{1, 2, 3}}, without_tokenizer(10), 100);
  EXPECT_EQ(TokenDataset::open(path).tokens(), 3);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path() + "/train"), fs::directory_iterator()), 2);
}

TEST(DatasetOpen, NamesTheSplitsOfAFolder) {
  const TemporaryFolder folder;
  pack_documents(folder.path(), "train", {{1, 2, 3}}, without_tokenizer(10), 100);
  const std::string message = error_of([&] { TokenDataset::open(folder.path()); });
  EXPECT_NE(message.find("/train"), std::string::npos) << message;
  EXPECT_NE(error_of([&] { TokenDataset::open(folder.path() + "/nowhere"); }).find("no such file"),
            std::string::npos);
}

TEST(DatasetOpen, ChecksTheTokenizer) {
  const TemporaryFolder folder;
  const std::string source = folder.path() + "/source.model";
  write_file_atomically(source, "some tokenizer");
  const TokenizerInfo info{source, hash_file(source), 10, 1, 2};
  const auto path = pack_documents(folder.path(), "train", {{1, 2, 3}}, info, 100);
  EXPECT_NE(error_of([&] { TokenDataset::open(path); }).find("tokenizer.model is missing"),
            std::string::npos);
  publish_tokenizer(folder.path(), info);
  const auto dataset = TokenDataset::open(path);
  EXPECT_EQ(dataset.manifest().bos_id, 1);
  EXPECT_EQ(dataset.manifest().eos_id, 2);
  EXPECT_EQ(fs::weakly_canonical(dataset.manifest().tokenizer_file),
            fs::weakly_canonical(folder.path() + "/tokenizer.model"));
  write_file_atomically(folder.path() + "/tokenizer.model", "another tokenizer");
  const std::string message = error_of([&] { TokenDataset::open(path); });
  EXPECT_NE(message.find("packed with tokenizer " + info.hash), std::string::npos) << message;
}

TEST(DatasetOpen, RefusesIdsOutsideTheVocabularyWhenWriting) {
  const TemporaryFolder folder;
  SplitWriter writer(folder.path(), "train", without_tokenizer(10), 100);
  writer.begin_document();
  const int32_t large = 10;
  const int32_t negative = -1;
  EXPECT_THROW(writer.append(&large, 1), Error);
  EXPECT_THROW(writer.append(&negative, 1), Error);
}

TEST(DatasetOpen, RefusesAnEmptySplit) {
  const TemporaryFolder folder;
  SplitWriter writer(folder.path(), "train", without_tokenizer(10), 100);
  EXPECT_THROW(writer.publish({}), Error);
}

}  // namespace
}  // namespace asplash::data
