#include "asplash/text/tokenizer_training.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "text/sample_text.h"

namespace asplash::text {
namespace {

class TokenizerTraining : public ::testing::Test {
 protected:
  TokenizerTraining() {
    write_file(folder_ / "a.txt", made_up_text(3, 500));
    options_.corpus.inputs = {folder_.path()};
    options_.vocab_size = 400;
  }
  std::string error() {
    try {
      train_tokenizer(options_, folder_ / "out.model");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  TemporaryFolder folder_;
  TokenizerTrainingOptions options_;
};

TEST_F(TokenizerTraining, IsReproducible) {
  const auto first = train_tokenizer(options_, folder_ / "x" + "/first.model");
  const auto second = train_tokenizer(options_, folder_ / "second.model");
  EXPECT_EQ(first.hash, second.hash);
  EXPECT_EQ(first.hash, hash_file(folder_ / "second.model"));
  EXPECT_EQ(first.documents, 1);
  EXPECT_GT(first.sampled_bytes, 0);
  EXPECT_LE(first.sampled_bytes, first.text_bytes);
}

TEST_F(TokenizerTraining, TakesReservedAndStrangeCharacters) {
  std::mt19937_64 random(5);
  write_file(folder_ / "strange.txt", random_utf8(random, 20000));
  options_.character_coverage = 0.98;
  options_.vocab_size = 4700;
  train_tokenizer(options_, folder_ / "out.model");
  const auto tokenizer = Tokenizer::load(folder_ / "out.model");
  for (int i = 0; i < 200; ++i) {
    const std::string text = random_utf8(random, 50);
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST_F(TokenizerTraining, NamesWhatIsWrongWithTheVocabulary) {
  options_.vocab_size = 100000;
  EXPECT_NE(error().find("--vocab-size 100000: Vocabulary size too high"), std::string::npos) << error();
  options_.vocab_size = 262;
  EXPECT_NE(error().find("--vocab-size 262: Vocabulary size is smaller"), std::string::npos) << error();
  options_.vocab_size = 200;
  EXPECT_NE(error().find("at least 260"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out.model"));
}

TEST_F(TokenizerTraining, RefusesACorpusWithoutText) {
  write_file(folder_ / "a.txt", "\n\n");
  EXPECT_NE(error().find("no text"), std::string::npos) << error();
}

}  // namespace
}  // namespace asplash::text
