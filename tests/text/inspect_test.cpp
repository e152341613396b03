#include "asplash/text/inspect.h"

#include <gtest/gtest.h>

#include "asplash/base/error.h"
#include "asplash/text/packer.h"
#include "text/sample_text.h"

namespace asplash::text {
namespace {

class Inspect : public ::testing::Test {
 protected:
  Inspect() {
    std::vector<std::string> texts;
    for (int i = 1; i <= 101; ++i) texts.push_back(std::string(static_cast<size_t>(i), '\n'));
    write_file(folder_ / "in.jsonl", json_lines(texts));
    PackOptions options;
    options.corpus.inputs = {folder_ / "in.jsonl"};
    options.tokenizer = SampleModels::get().path(TokenizerModel::bpe);
    options.output = folder_ / "out";
    options.eos = false;
    pack(options);
    options.rest = "valid";
    pack(options);
  }
  TemporaryFolder folder_;
};

TEST_F(Inspect, MeasuresASplit) {
  InspectOptions options;
  options.samples = 2;
  options.verify = true;
  const auto reports = inspect({folder_ / "out/train/manifest.json"}, options);
  ASSERT_EQ(reports.size(), 1u);
  const SplitReport& report = reports[0];
  EXPECT_EQ(report.documents, 101);
  EXPECT_EQ(report.text_bytes, 101 * 102 / 2);
  EXPECT_EQ(report.tokens, 101 * 102 / 2 + 101);
  EXPECT_EQ(report.shortest, 2);
  EXPECT_EQ(report.median, 52);
  EXPECT_EQ(report.p90, 92);
  EXPECT_EQ(report.longest, 102);
  EXPECT_EQ(report.counted_tokens, report.tokens);
  EXPECT_EQ(report.used_ids, 2);
  ASSERT_EQ(report.frequent.size(), 2u);
  EXPECT_EQ(report.frequent[0].piece, "\n");
  EXPECT_EQ(report.frequent[1].count, 101);
  EXPECT_EQ(report.samples.size(), 2u);
}

TEST_F(Inspect, PrintsASplitEachLine) {
  const auto reports = inspect({folder_ / "out"}, {});
  ASSERT_EQ(reports.size(), 2u);
  const std::string text = to_text(reports);
  EXPECT_NE(text.find("\ntrain "), std::string::npos) << text;
  EXPECT_NE(text.find("\nvalid "), std::string::npos) << text;
  const auto json = nlohmann::json::parse(to_json(reports));
  EXPECT_EQ(json.size(), 2u);
  EXPECT_EQ(json[0]["document_tokens"]["max"], 102);
}

TEST_F(Inspect, RefusesWhatIsNotPacked) { EXPECT_THROW(inspect({folder_.path()}, {}), Error); }

}  // namespace
}  // namespace asplash::text
