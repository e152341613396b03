#pragma once

#include <string>
#include <vector>

#include "asplash/data/dataset.h"
#include "asplash/data/shard_writer.h"

namespace asplash::data {

constexpr const char* kManifestFile = "manifest.json";
constexpr const char* kTokenizerFile = "tokenizer.model";

/// A manifest with what it says of each shard.
struct DetailedManifest {
  Manifest manifest;
  std::vector<ShardSummary> shards;
};
DetailedManifest read_detailed_manifest(const std::string& path_or_folder);

/// Writes PATH atomically. `manifest.path`, `.tokenizer_file` and `.shard_files` are not read: the tokenizer
/// is
/// ../tokenizer.model (null where the hash is empty), the shards are `shards`.
void write_manifest(const std::string& path, const Manifest& manifest, int64_t token_bytes,
                    const std::vector<ShardSummary>& shards, const Provenance& provenance);

/// A manifest's JSON object with the checksum of all its bytes as its last member, by which a flipped bit
/// anywhere in the file is found.
std::string seal_manifest(std::string text);

}  // namespace asplash::data
