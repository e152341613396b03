#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "asplash/data/shard_writer.h"

namespace asplash::data {

using Documents = std::vector<std::vector<int32_t>>;

/// Documents of random tokens, of 0 to `longest` tokens each.
inline Documents random_documents(int64_t count, int64_t longest, int64_t vocab_size, uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  Documents documents(static_cast<size_t>(count));
  for (auto& document : documents) {
    document.resize(random() % static_cast<uint64_t>(longest + 1));
    for (int32_t& token : document)
      token = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab_size));
  }
  return documents;
}

/// Packs them as OUT/SPLIT; document i stands for 7 i bytes of text. Returns the manifest's path.
inline std::string pack_documents(const std::string& output, const std::string& split,
                                  const Documents& documents, const TokenizerInfo& tokenizer,
                                  int64_t shard_tokens) {
  SplitWriter writer(output, split, tokenizer, shard_tokens);
  for (size_t i = 0; i < documents.size(); ++i) {
    writer.begin_document();
    writer.append(documents[i].data(), static_cast<int64_t>(documents[i].size()));
    writer.end_document(static_cast<int64_t>(7 * i));
  }
  writer.publish({});
  return output + "/" + split + "/manifest.json";
}

inline TokenizerInfo without_tokenizer(int64_t vocab_size) { return {"", "", vocab_size, -1, -1}; }

inline std::vector<int32_t> joined(const Documents& documents) {
  std::vector<int32_t> tokens;
  for (const auto& document : documents) tokens.insert(tokens.end(), document.begin(), document.end());
  return tokens;
}

}  // namespace asplash::data
