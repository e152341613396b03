// The shard reader: manifest, header, block table, tokens and document index, and the packed windows cut from
// them. Input: a byte that chooses how the rest becomes a split:
//   bit 0 clear  a manifest up to a zero byte, then the shard; both as they are, but for
//   bit 2 set    the manifest's own checksum, which is made and appended
//   bit 0 set    the shard alone: its layout, checksums and manifest are made to fit its counts, so that
//                mutations get past the checksums to what lies behind them
//   bit 1 set    the second kind names the shard twice
// In a shard, the header's zeros are left out: they would be most of the input.
#include <cstring>

#include "asplash/base/files.h"
#include "asplash/data/dataset.h"
#include "asplash/data/loader.h"
#include "asplash/data/manifest.h"
#include "asplash/data/shard_format.h"
#include "asplash/data/shard_writer.h"
#include "asplash/data/window_reader.h"
#include "fuzz/fuzz.h"

namespace asplash::fuzz {
namespace {

using data::ShardHeader;

constexpr const char* kShardName = "shard-00000.tokens";

std::string with_header_zeros(std::string_view shard) {
  std::string whole(shard.substr(0, sizeof(ShardHeader)));
  if (whole.size() < sizeof(ShardHeader)) return whole;
  whole.resize(data::kHeaderBytes);
  return whole.append(shard.substr(sizeof(ShardHeader)));
}

std::string without_header_zeros(const std::string& shard) {
  return shard.substr(0, sizeof(ShardHeader)) + shard.substr(data::kHeaderBytes);
}

void append_checksums(const std::string& region, std::string& table) {
  for (size_t begin = 0; begin < region.size(); begin += data::kBlockBytes) {
    const uint64_t sum =
        hash64(region.data() + begin, std::min<size_t>(data::kBlockBytes, region.size() - begin));
    table.append(reinterpret_cast<const char*>(&sum), sizeof sum);
  }
}

/// A split whose checksums all hold around the given header's counts and the content after it.
void write_repaired(std::string_view shard, bool twice, const ScratchFolder& folder) {
  constexpr uint64_t kMost = 1 << 16;
  ShardHeader header{};
  std::memcpy(&header, shard.data(), std::min(shard.size(), sizeof header));
  shard.remove_prefix(std::min(shard.size(), sizeof header));
  std::memcpy(header.magic, data::kShardMagic, sizeof header.magic);
  header.version = data::kShardVersion;
  header.token_bytes = header.token_bytes % 2 == 0 ? 2 : 4;
  header.tokens %= kMost;
  header.documents %= kMost;
  std::memset(header.tokenizer_hash, 0, sizeof header.tokenizer_hash);
  data::set_shard_offsets(header);
  std::string content(shard.substr(0, header.table_offset - data::kHeaderBytes));
  content.resize(header.table_offset - data::kHeaderBytes);
  const size_t index = header.index_offset - data::kHeaderBytes;
  std::string table;
  append_checksums(content.substr(0, index), table);
  append_checksums(content.substr(index), table);
  header.checksum = 0;
  std::string head(data::kHeaderBytes, '\0');
  std::memcpy(head.data(), &header, sizeof header);
  const std::string checked = head + table;
  header.checksum = hash64(checked.data(), checked.size());
  std::memcpy(head.data(), &header, sizeof header);
  folder.write(kShardName, head + content + table);

  data::Manifest manifest;
  const uint64_t shards = twice ? 2 : 1;
  manifest.vocab_size = static_cast<int64_t>(header.vocab_size);
  manifest.tokens = static_cast<int64_t>(shards * header.tokens);
  manifest.documents = static_cast<int64_t>(shards * header.documents);
  manifest.text_bytes = static_cast<int64_t>(shards * header.text_bytes);
  const data::ShardSummary summary{
      kShardName, static_cast<int64_t>(header.file_bytes), static_cast<int64_t>(header.tokens),
      static_cast<int64_t>(header.documents), data::checksum_text(header.checksum)};
  data::write_manifest(folder.path() + "/manifest.json", manifest, header.token_bytes,
                       std::vector<data::ShardSummary>(shards, summary), {});
}

/// Reads everything in every way training and evaluation do.
void read_all(const data::TokenDataset& dataset) {
  std::vector<int32_t> tokens(static_cast<size_t>(dataset.tokens()));
  dataset.read(0, dataset.tokens(), tokens.data());
  for (const int32_t token : tokens)
    require(token >= 0 && token < dataset.manifest().vocab_size, "a token outside the vocabulary");
  int64_t before = 0;
  for (int64_t i = 0; i <= dataset.documents(); ++i) {
    const int64_t begin = dataset.document_begin(i);
    require(begin >= before && begin <= dataset.tokens(), "documents that are not one after the other");
    before = begin;
    if (i < dataset.documents()) dataset.document_text_bytes(i);
  }
  constexpr int64_t kContext = 5, kRows = 3;
  data::WindowReader reader(dataset, kContext, /*packed=*/true);
  // Memory of exactly the batch's size, so that a write beside it shows.
  const auto memory = [] {
    return std::shared_ptr<int32_t>(new int32_t[kRows * kContext], std::default_delete<int32_t[]>());
  };
  data::Batch batch;
  batch.rows = kRows;
  batch.context = kContext;
  batch.tokens = memory();
  batch.targets = memory();
  for (int64_t window = 0; window + kRows <= data::WindowReader::count(dataset, kContext); window += kRows) {
    reader.read({window, window + 1, window + 2}, batch);
    require(batch.cu_seqlens.front() == 0 && batch.cu_seqlens.back() == kRows * kContext &&
                std::is_sorted(batch.cu_seqlens.begin(), batch.cu_seqlens.end()),
            "boundaries that are not in order");
    require(batch.valid_targets >= 0 && batch.valid_targets <= kRows * kContext, "valid_targets");
  }
}

void read(Bytes input, const ScratchFolder& folder) {
  const unsigned mode = input.byte();
  if (mode % 2 == 1) {
    write_repaired(input.rest(), (mode & 2) != 0, folder);
  } else {
    const std::string manifest(input.until('\0'));
    folder.write("manifest.json", (mode & 4) != 0 ? data::seal_manifest(manifest) : manifest);
    folder.write(kShardName, with_header_zeros(input.rest()));
  }
  refusal([&] {
    const auto dataset = data::TokenDataset::open(folder.path());
    dataset.verify();
    read_all(dataset);
  });
}

std::string packed(int64_t vocab_size, char mode) {
  const ScratchFolder folder;
  data::SplitWriter writer(folder.path(), "split", {"", "", vocab_size, -1, -1}, 1 << 20);
  for (int32_t document = 0; document < 6; ++document) {
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 3 * document; ++i) tokens.push_back((7 * document + i) % 50);
    writer.begin_document();
    writer.append(tokens.data(), static_cast<int64_t>(tokens.size()));
    writer.end_document(4 * document);
  }
  writer.finish();
  writer.publish({{{"corpus.jsonl", 100}}, {{"split", "1"}}});
  const std::string split = folder.path() + "/split/";
  const std::string shard = without_header_zeros(read_file(split + kShardName));
  if (mode % 2 == 1) return mode + shard;
  std::string manifest = read_file(split + "manifest.json");
  if ((mode & 4) != 0)
    manifest = manifest.substr(0, manifest.rfind(",\n  \"xxh3_128_of_the_above\"")) + "\n}\n";
  return mode + manifest + '\0' + shard;
}

}  // namespace

std::vector<std::string> seeds() {
  return {packed(64, 0), packed(64, 4), packed(100000, 4), packed(64, 1), packed(100000, 1), packed(64, 3)};
}

}  // namespace asplash::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const asplash::fuzz::ScratchFolder folder;
  asplash::fuzz::read({data, size}, folder);
  return 0;
}
