#pragma once

#include <cstring>
#include <string>

#include "asplash/base/files.h"
#include "asplash/data/shard_format.h"

namespace asplash::data {

/// Puts a changed header into the bytes of a shard, with the checksum that covers it and the table of blocks.
inline void seal_shard(std::string& shard, ShardHeader& header) {
  header.checksum = 0;
  std::memcpy(shard.data(), &header, sizeof header);
  const std::string covered = shard.substr(0, kHeaderBytes) + shard.substr(header.table_offset);
  header.checksum = hash64(covered.data(), covered.size());
  std::memcpy(shard.data(), &header, sizeof header);
}

}  // namespace asplash::data
