// Streaming and byte counts with a real SentencePiece model.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>

#include "asplash/base/text.h"
#include "asplash/eval/text_stream.h"
#include "asplash/eval/token_bytes.h"
#include "asplash/text/tokenizer.h"
#include "asplash/text/tokenizer_training.h"

namespace asplash::eval {
namespace {

const std::string kText =
    "And God said, Let there be light:\n\tand there was light.  Zwölf Äpfel, 世界, \xF0\x9F\x98\x80! "
    "\xE2\x96\x81 is a "
    "block.\n";

class WithTokenizer : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string folder = (std::filesystem::temp_directory_path() / "asplash-eval-XXXXXX").string();
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    text::TokenizerTrainingOptions options;
    options.corpus.inputs = {ASPLASH_SOURCE_DIR "/data/samples/kjv.jsonl"};
    options.vocab_size = 500;
    text::train_tokenizer(options, folder + "/tokenizer.model");
    tokenizer_ = std::make_unique<text::Tokenizer>(text::Tokenizer::load(folder + "/tokenizer.model"));
    std::filesystem::remove_all(folder);
  }
  static void TearDownTestSuite() { tokenizer_.reset(); }

  static std::string streamed(const std::vector<int32_t>& ids) {
    TextStream stream(*tokenizer_);
    std::string text;
    for (const int32_t id : ids) {
      const std::string part = stream.push(id);
      EXPECT_TRUE(is_valid_utf8(part));
      text += part;
    }
    return text + stream.finish();
  }

  static std::unique_ptr<text::Tokenizer> tokenizer_;
};
std::unique_ptr<text::Tokenizer> WithTokenizer::tokenizer_;

TEST_F(WithTokenizer, StreamedTextIsTheText) {
  EXPECT_EQ(streamed(tokenizer_->encode(kText)), kText);
  EXPECT_EQ(streamed(tokenizer_->encode("  two spaces first")), "  two spaces first");
}

TEST_F(WithTokenizer, StreamedTextOfAnyTokensIsTheirDecodedText) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 60; ++i)  // the lower half of the ids is mostly bytes
      ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(tokenizer_->vocab_size())));
    EXPECT_EQ(streamed(ids), tokenizer_->decode(ids));
  }
}

TEST_F(WithTokenizer, BytesOfTokensAreTheBytesOfTheText) {
  const auto bytes = bytes_of_token(*tokenizer_);
  ASSERT_EQ(static_cast<int64_t>(bytes.size()), tokenizer_->vocab_size());
  EXPECT_EQ(bytes[static_cast<size_t>(tokenizer_->bos_id())], 0);
  EXPECT_EQ(bytes[static_cast<size_t>(tokenizer_->eos_id())], 0);
  int64_t sum = 0;
  for (const int32_t id : tokenizer_->encode(kText)) sum += bytes[static_cast<size_t>(id)];
  EXPECT_EQ(sum, static_cast<int64_t>(kText.size()));
}

}  // namespace
}  // namespace asplash::eval
