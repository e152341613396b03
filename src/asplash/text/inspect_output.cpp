#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/text.h"
#include "asplash/text/inspect.h"

namespace asplash::text {
namespace {

/// Control characters would tear the table apart.
std::string printable(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\n')
      result += "\\n";
    else if (c == '\t')
      result += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20)
      result += '?';
    else
      result += c;
  }
  return result;
}

double bytes_per_token(const SplitReport& split) {
  return split.tokens == 0 ? 0 : static_cast<double>(split.text_bytes) / static_cast<double>(split.tokens);
}

std::string frequent_line(const SplitReport& split) {
  std::vector<std::string> tokens;
  for (const TokenCount& token : split.frequent) {
    const double share = 100 * static_cast<double>(token.count) / static_cast<double>(split.counted_tokens);
    tokens.push_back(str("'", printable(token.piece), "' ", fixed(share, 1), "%"));
  }
  return join(tokens, ", ");
}

}  // namespace

std::string to_text(const std::vector<SplitReport>& splits) {
  std::vector<std::vector<std::string>> counts{
      {"split", "shards", "documents", "tokens", "text", "bytes/token", "ids used", "checked"}};
  std::vector<std::vector<std::string>> lengths{
      {"tokens of a document", "shortest", "median", "90%", "99%", "longest"}};
  std::string details;
  for (const SplitReport& split : splits) {
    counts.push_back({split.split, grouped(split.shards), grouped(split.documents), grouped(split.tokens),
                      human_bytes(static_cast<double>(split.text_bytes)), fixed(bytes_per_token(split), 2),
                      str(split.used_ids, " of ", split.vocab_size), split.verified ? "all" : "as read"});
    lengths.push_back({split.split, grouped(split.shortest), grouped(split.median), grouped(split.p90),
                       grouped(split.p99), grouped(split.longest)});
    details += str("\n", split.split, ": ", split.path, "\n  most frequent: ", frequent_line(split), "\n");
    for (const std::string& sample : split.samples) details += str("  sample: ", printable(sample), "\n");
  }
  return table(counts) + "\n" + table(lengths) + details;
}

std::string to_json(const std::vector<SplitReport>& splits) {
  using json = nlohmann::ordered_json;
  json root = json::array();
  for (const SplitReport& split : splits) {
    json frequent = json::array();
    for (const TokenCount& token : split.frequent)
      frequent.push_back({{"id", token.id}, {"piece", token.piece}, {"count", token.count}});
    root.push_back({{"split", split.split},
                    {"manifest", split.path},
                    {"tokenizer_hash", split.tokenizer_hash},
                    {"vocab_size", split.vocab_size},
                    {"shards", split.shards},
                    {"documents", split.documents},
                    {"tokens", split.tokens},
                    {"text_bytes", split.text_bytes},
                    {"bytes_per_token", bytes_per_token(split)},
                    {"verified", split.verified},
                    {"document_tokens",
                     {{"min", split.shortest},
                      {"median", split.median},
                      {"p90", split.p90},
                      {"p99", split.p99},
                      {"max", split.longest}}},
                    {"counted_tokens", split.counted_tokens},
                    {"used_ids", split.used_ids},
                    {"frequent", frequent},
                    {"samples", split.samples}});
  }
  return root.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace asplash::text
