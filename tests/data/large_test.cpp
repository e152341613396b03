// A corpus far larger than memory: what starting costs does not grow with it.

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "asplash/base/files.h"
#include "asplash/data/loader.h"
#include "asplash/data/manifest.h"
#include "asplash/data/shard_format.h"
#include "temporary_folder.h"

namespace asplash::data {
namespace {

/// A split of one shard and one document, all of whose tokens are 0, in a sparse file: only header, index and
/// table take room on the disk. Returns its folder.
std::string make_split_of_zeros(const TemporaryFolder& folder, int64_t tokens) {
  ShardHeader header{};
  std::memcpy(header.magic, kShardMagic, sizeof kShardMagic);
  header.version = kShardVersion;
  header.token_bytes = 2;
  header.tokens = static_cast<uint64_t>(tokens);
  header.documents = 1;
  header.text_bytes = 7;
  header.vocab_size = 10;
  set_shard_offsets(header);

  const std::vector<char> block(kBlockBytes);
  std::vector<uint64_t> table((header.index_offset - kHeaderBytes) / kBlockBytes,
                              hash64(block.data(), block.size()));
  const DocumentEntry document{0, header.text_bytes};
  table.push_back(hash64(&document, sizeof document));
  const size_t table_bytes = table.size() * sizeof(uint64_t);
  std::vector<char> checked(kHeaderBytes + table_bytes);
  std::memcpy(checked.data(), &header, sizeof header);
  std::memcpy(checked.data() + kHeaderBytes, table.data(), table_bytes);
  header.checksum = hash64(checked.data(), checked.size());

  const std::string name = "shard-00000.tokens", path = folder / name;
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header), sizeof header);
  file.seekp(static_cast<std::streamoff>(header.index_offset));
  file.write(reinterpret_cast<const char*>(&document), sizeof document);
  file.write(reinterpret_cast<const char*>(table.data()), static_cast<std::streamsize>(table_bytes));
  file.close();
  EXPECT_EQ(std::filesystem::file_size(path), header.file_bytes);

  Manifest manifest;
  manifest.split = "train";
  manifest.tokens = tokens;
  manifest.documents = 1;
  manifest.text_bytes = 7;
  manifest.vocab_size = 10;
  write_manifest(folder / "manifest.json", manifest, 2,
                 {{name, static_cast<int64_t>(header.file_bytes), tokens, 1, checksum_text(header.checksum)}},
                 {});
  return folder.path();
}

TEST(LargeData, StartsWithinTwoSeconds) {
  constexpr int64_t kTokens = int64_t{1} << 37;  // 256 GiB
  const TemporaryFolder folder;
  const std::string split = make_split_of_zeros(folder, kTokens);

  const auto begin = std::chrono::steady_clock::now();
  const TokenDataset dataset = TokenDataset::open(split);
  LoaderOptions options;
  options.context = 2048;
  options.rows = 8;
  options.packed = true;
  // Deep inside the second epoch: nothing before it is gone through.
  const Position start{1, kTokens / options.context / 2};
  Loader loader(dataset, options, start);
  const Batch batch = loader.next();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;

  EXPECT_LT(took.count(), 2);
  EXPECT_EQ(loader.samples_per_epoch(), (kTokens - 1) / options.context);
  EXPECT_EQ(batch.position.sample, start.sample);
  EXPECT_EQ(batch.valid_targets, 8 * 2048);
  int32_t last = -1;
  dataset.read(kTokens - 1, 1, &last);
  EXPECT_EQ(last, 0);
  EXPECT_EQ(dataset.document_of(kTokens - 1), 0);
}

}  // namespace
}  // namespace asplash::data
