#include "asplash/train/metrics.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/interrupt.h"
#include "asplash/train/console.h"
#include "temporary_folder.h"
#include "train/limits.h"

namespace asplash::train {
namespace {

StepRecord record_of(int64_t step) {
  StepRecord record;
  record.step = step;
  record.loss = 6.5;
  record.tokens = 3'000'000'000;
  record.position = {1, 24};
  return record;
}

std::vector<nlohmann::json> lines_of(const std::string& path) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

TEST(MetricsFile, WritesOneObjectALine) {
  const TemporaryFolder folder;
  MetricsFile metrics(folder / "m.jsonl", 0, OnFailedWrite::stop);
  StepRecord step = record_of(1);
  step.zero_tile_share = 0.25;
  metrics.write(step);
  EvaluationRecord evaluation;
  evaluation.step = 1;
  evaluation.loss = 2;
  evaluation.perplexity = 7.4;
  metrics.write(evaluation);
  const auto lines = lines_of(folder / "m.jsonl");
  ASSERT_EQ(lines.size(), 2u);
  for (const char* key : {"step", "loss", "grad_norm", "lr", "tokens", "tokens_per_second", "step_ms",
                          "data_wait_ms", "epoch", "sample", "skipped", "memory_bytes", "zero_tile_share"}) {
    EXPECT_TRUE(lines[0].contains(key)) << key;
  }
  EXPECT_FALSE(lines[0].contains("mfu")) << "unknown";
  EXPECT_EQ(lines[0]["tokens"], 3'000'000'000);
  EXPECT_EQ(lines[1]["event"], "evaluation");
  EXPECT_EQ(lines[1]["perplexity"], 7.4);
}

TEST(MetricsFile, NonFiniteNumbersBecomeNull) {
  const TemporaryFolder folder;
  MetricsFile metrics(folder / "m.jsonl", 0, OnFailedWrite::stop);
  StepRecord step = record_of(1);
  step.loss = std::numeric_limits<double>::quiet_NaN();
  step.grad_norm = std::numeric_limits<double>::infinity();
  metrics.write(step);
  const auto lines = lines_of(folder / "m.jsonl");
  EXPECT_TRUE(lines.at(0)["loss"].is_null());
  EXPECT_TRUE(lines.at(0)["grad_norm"].is_null());
}

TEST(MetricsFile, ResumingRemovesLaterAndTornLines) {
  const TemporaryFolder folder;
  const std::string path = folder / "m.jsonl";
  {
    MetricsFile metrics(path, 0, OnFailedWrite::stop);
    for (int64_t step = 1; step <= 5; ++step) metrics.write(record_of(step));
    EvaluationRecord evaluation;
    for (const int64_t step : {3, 5}) {
      evaluation.step = step;
      metrics.write(evaluation);
    }
  }
  std::ofstream(path, std::ios::app) << "{\"step\": 2, \"lo";
  MetricsFile(path, 3, OnFailedWrite::stop).write(record_of(4));
  std::vector<int64_t> steps;
  for (const auto& line : lines_of(path)) steps.push_back(line["step"].get<int64_t>());
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 3, 4}));
}

TEST(MetricsFile, NamesAFileItCannotWrite) {
  EXPECT_THROW(MetricsFile("/no/such/folder/m.jsonl", 0, OnFailedWrite::stop), Error);
}

TEST(MetricsFile, LinesWaitForRoomAndNoneIsLost) {
  const TemporaryFolder folder;
  const InterruptGuard ignores_the_limits_signal;
  MetricsFile metrics(folder / "m.jsonl", 0, OnFailedWrite::go_on);
  {
    const FileSizeLimit limit(700);  // in the middle of a line
    for (int64_t step = 1; step <= 9; ++step) metrics.write(record_of(step));
    EXPECT_FALSE(metrics.is_complete());
    EXPECT_THROW(metrics.finish(), Error);
    EXPECT_EQ(std::filesystem::file_size(folder / "m.jsonl"), 700u);
  }
  metrics.write(record_of(10));
  EXPECT_TRUE(metrics.is_complete());
  metrics.finish();
  std::vector<int64_t> steps;
  for (const auto& line : lines_of(folder / "m.jsonl")) steps.push_back(line["step"].get<int64_t>());
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
}

TEST(MetricsFile, StopsAtAFailedWriteWhereAskedTo) {
  const TemporaryFolder folder;
  const InterruptGuard ignores_the_limits_signal;
  MetricsFile metrics(folder / "m.jsonl", 0, OnFailedWrite::stop);
  const FileSizeLimit limit(100);
  EXPECT_THROW(metrics.write(record_of(1)), Error);
}

TEST(MetricsFile, KeysAreDocumented) {
  const TemporaryFolder folder;
  MetricsFile metrics(folder / "m.jsonl", 0, OnFailedWrite::stop);
  StepRecord step = record_of(1);
  step.mfu = step.zero_tile_share = step.mean_support = step.mean_passes = 0.5;
  metrics.write(step);
  metrics.write(EvaluationRecord{});
  const std::string documentation = read_file(ASPLASH_SOURCE_DIR "/docs/metrics.md");
  for (const auto& line : lines_of(folder / "m.jsonl")) {
    for (const auto& [key, value] : line.items())
      EXPECT_NE(documentation.find("`" + key + "`"), std::string::npos) << key;
  }
}

TEST(Console, LinesAlign) {
  StepRecord a = record_of(7), b = record_of(123);
  a.tokens_per_second = 900;
  b.tokens_per_second = 1234567;
  b.grad_norm = 12.5;
  b.zero_tile_share = 0.5;
  b.mean_support = 1234.25;
  for (const bool statistics : {true, false})
    EXPECT_EQ(step_line(a, 400, statistics).size(), step_line(b, 400, statistics).size());
  EXPECT_NE(step_line(a, 400, true).find("step   7/400"), std::string::npos) << step_line(a, 400, true);
  EXPECT_NE(step_line(a, 400, true).find("MFU n/a"), std::string::npos);
  EXPECT_NE(step_line(a, 400, true).find("zero tiles      - | support       -"), std::string::npos)
      << step_line(a, 400, true);
  EXPECT_NE(step_line(b, 400, true).find("zero tiles  50.0% | support  1234.2"), std::string::npos)
      << step_line(b, 400, true);
  EXPECT_EQ(step_line(b, 400, false).find("zero tiles"), std::string::npos);
  b.mean_passes = 1.375;
  EXPECT_NE(step_line(b, 400, true).find("| support  1234.2 | passes 1.38"), std::string::npos);
  b.mfu = 0.456;
  EXPECT_NE(step_line(b, 400, true).find("MFU 45.6%"), std::string::npos);
}

}  // namespace
}  // namespace asplash::train
