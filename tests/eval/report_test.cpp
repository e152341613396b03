#include "asplash/eval/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "asplash/eval/token_bytes.h"

namespace asplash::eval {
namespace {

EvaluationReport sample() {
  EvaluationReport report;
  report.checkpoint = "runs/x/checkpoints/step_00000200";
  report.step = 200;
  report.attention = "entmax";
  report.alpha = 1.5;
  report.positions = "nape";
  report.trained_context = 4;
  report.dataset = "data/x/valid/manifest.json";
  report.target_tokens = 1234;
  report.unigram_perplexity = 321.125;
  ContextResult result;
  result.context = 4;
  result.perplexity = 45.678;
  result.bits_per_byte = 1.5;
  result.target_tokens = 1234;
  result.tokens_per_second = 12345;
  result.by_position = {{0, 1, 300, 5.0}, {1, 2, 300, 4.5}, {2, 4, 634, 4.25}};
  report.results.push_back(result);
  result.context = 6;
  result.beyond_trained = true;
  result.by_position.push_back({4, 6, 100, 4.0});
  report.results.push_back(result);
  return report;
}

TEST(Report, JsonHasTheDocumentedKeys) {
  const auto json = nlohmann::json::parse(to_json(sample()));
  for (const char* key : {"checkpoint",
                          "step",
                          "attention",
                          "alpha",
                          "positions",
                          "parameters",
                          "trained_context",
                          "dataset",
                          "split",
                          "tokenizer_hash",
                          "protocol",
                          "documents",
                          "stride",
                          "target_tokens",
                          "unigram_perplexity",
                          "device",
                          "precision",
                          "version",
                          "date",
                          "results"})
    EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_EQ(json["alpha"], 1.5);
  ASSERT_EQ(json["results"].size(), 2U);
  const auto& result = json["results"][1];
  for (const char* key : {"context", "perplexity", "bits_per_byte", "loss", "target_tokens", "target_bytes",
                          "beyond_trained", "tokens_per_second", "loss_by_position"})
    EXPECT_TRUE(result.contains(key)) << key;
  EXPECT_EQ(result["beyond_trained"], true);
  EXPECT_EQ(result["loss_by_position"][3],
            (nlohmann::json{{"first", 4}, {"last", 6}, {"target_tokens", 100}, {"loss", 4.0}}));
}

TEST(Report, TableMarksContextsBeyondTheTrainedOne) {
  const std::string text = to_text(sample());
  EXPECT_NE(text.find("* beyond the trained context of 4"), std::string::npos) << text;
  EXPECT_NE(text.find("1,234 target tokens"), std::string::npos) << text;
  EXPECT_NE(text.find("unigram model of the same tokens: perplexity 321.1"), std::string::npos) << text;
  EvaluationReport within = sample();
  within.results.pop_back();
  EXPECT_EQ(to_text(within).find("* beyond"), std::string::npos);
}

TEST(Report, SaysHowDocumentsWereTold) {
  EvaluationReport report = sample();
  EXPECT_EQ(nlohmann::json::parse(to_json(report))["documents"], "stream");
  EXPECT_NE(to_text(report).find("documents as one stream"), std::string::npos);
  report.packed = true;
  EXPECT_EQ(nlohmann::json::parse(to_json(report))["documents"], "packed");
  EXPECT_NE(to_text(report).find("documents kept apart (packed)"), std::string::npos);
}

TEST(Report, PositionsAreRowsAndContextsColumns) {
  const std::string text = positions_to_text(sample());
  for (const char* part : {"context 4", "context 6", "2 - 3", "4 - 7", "4.250", "4.000"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

TEST(TokenBytes, CountSpacesOnce) {
  EXPECT_EQ(bytes_of_piece("\xE2\x96\x81the"), 4);
  EXPECT_EQ(bytes_of_piece("\xE2\x96\x81\xE2\x96\x81"), 2);
  EXPECT_EQ(bytes_of_piece("ö"), 2);
  EXPECT_EQ(bytes_of_piece("x"), 1);
  EXPECT_EQ(bytes_of_piece(""), 0);
}

}  // namespace
}  // namespace asplash::eval
