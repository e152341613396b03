#include "asplash/eval/report.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/text.h"
#include "asplash/base/version.h"

namespace asplash::eval {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const ContextResult& result) {
  Json json = {{"context", result.context},
               {"perplexity", result.perplexity},
               {"bits_per_byte", result.bits_per_byte},
               {"loss", result.loss},
               {"target_tokens", result.target_tokens},
               {"target_bytes", result.target_bytes},
               {"beyond_trained", result.beyond_trained},
               {"tokens_per_second", result.tokens_per_second},
               {"loss_by_position", Json::array()}};
  for (const PositionBucket& bucket : result.by_position) {
    json["loss_by_position"].push_back({{"first", bucket.first},
                                        {"last", bucket.last},
                                        {"target_tokens", bucket.target_tokens},
                                        {"loss", bucket.loss}});
  }
  return json;
}

std::string attention_text(const EvaluationReport& report) {
  return report.attention == "softmax" ? report.attention : str(report.attention, ", alpha ", report.alpha);
}

}  // namespace

std::string to_json(const EvaluationReport& report) {
  Json json = {{"checkpoint", report.checkpoint},
               {"step", report.step},
               {"attention", report.attention},
               {"alpha", report.alpha},
               {"positions", report.positions},
               {"parameters", report.parameters},
               {"trained_context", report.trained_context},
               {"dataset", report.dataset},
               {"split", report.split},
               {"tokenizer_hash", report.tokenizer_hash},
               {"protocol", "asplash-windows-1"},
               {"documents", report.packed ? "packed" : "stream"},
               {"stride", report.stride},
               {"target_tokens", report.target_tokens},
               {"unigram_perplexity", report.unigram_perplexity},
               {"device", report.device},
               {"precision", report.precision},
               {"version", version() + " (" + git_commit() + ")"},
               {"date", utc_now()},
               {"results", Json::array()}};
  for (const ContextResult& result : report.results) json["results"].push_back(to_json(result));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string to_text(const EvaluationReport& report) {
  std::vector<std::vector<std::string>> rows = {{"context", "perplexity", "bits/byte", "tokens/s", "beyond"}};
  bool beyond = false;
  for (const ContextResult& r : report.results) {
    rows.push_back({grouped(r.context), fixed(r.perplexity, 2), fixed(r.bits_per_byte, 3),
                    human_count(r.tokens_per_second), r.beyond_trained ? "*" : ""});
    beyond = beyond || r.beyond_trained;
  }
  const std::string windows =
      report.stride == 0 ? "windows without overlap" : str("windows overlapping, stride ", report.stride);
  return str(report.checkpoint, " (step ", report.step, ", ", attention_text(report), ", ", report.positions,
             " positions)\non ", report.dataset, ": ", grouped(report.target_tokens),
             " target tokens at every context length, ", windows,
             report.packed ? ", documents kept apart (packed)" : ", documents as one stream", "\n\n",
             table(rows), "\n", "unigram model of the same tokens: perplexity ",
             fixed(report.unigram_perplexity, 2), "\n",
             beyond ? str("* beyond the trained context of ", report.trained_context, "\n") : "");
}

std::string positions_to_text(const EvaluationReport& report) {
  // A context ends inside one of the powers of two; where documents are short, some hold no targets.
  std::vector<std::string> header = {"loss at position"};
  for (const ContextResult& r : report.results) header.push_back("context " + std::to_string(r.context));
  std::vector<std::vector<std::string>> rows = {header};
  std::map<int64_t, std::vector<std::string>> losses;  // by the bucket's first position
  for (size_t c = 0; c < report.results.size(); ++c) {
    for (const PositionBucket& bucket : report.results[c].by_position) {
      auto& row = losses[bucket.first];
      row.resize(report.results.size());
      row[c] = fixed(bucket.loss, 3);
    }
  }
  for (const auto& [first, texts] : losses) {
    rows.push_back({first < 2 ? str(first) : str(first, " - ", 2 * first - 1)});
    rows.back().insert(rows.back().end(), texts.begin(), texts.end());
  }
  return table(rows);
}

}  // namespace asplash::eval
