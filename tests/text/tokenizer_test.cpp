#include "asplash/text/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/text/utf8.h"
#include "text/sample_text.h"

namespace asplash::text {
namespace {

class TokenizerTest : public ::testing::TestWithParam<TokenizerModel> {
 protected:
  Tokenizer tokenizer_ = SampleModels::get().load(GetParam());
};

TEST_P(TokenizerTest, KnowsItsPieces) {
  EXPECT_EQ(tokenizer_.vocab_size(), GetParam() == TokenizerModel::bpe ? 600 : 500);
  EXPECT_EQ(tokenizer_.unk_id(), 0);
  EXPECT_EQ(tokenizer_.bos_id(), 1);
  EXPECT_EQ(tokenizer_.eos_id(), 2);
  EXPECT_EQ(tokenizer_.pad_id(), -1);
  EXPECT_TRUE(tokenizer_.is_control(1));
  EXPECT_FALSE(tokenizer_.is_control(0));
  EXPECT_TRUE(tokenizer_.is_unknown(0));
  EXPECT_EQ(tokenizer_.piece(2), "</s>");
  EXPECT_TRUE(tokenizer_.round_trips());
  EXPECT_EQ(tokenizer_.hash(), hash_file(tokenizer_.path()));
  int bytes = 0;
  for (int32_t id = 0; id < tokenizer_.vocab_size(); ++id) bytes += tokenizer_.byte_of(id) >= 0 ? 1 : 0;
  EXPECT_EQ(bytes, 256);
  EXPECT_EQ(tokenizer_.byte_of(-1), -1);
}

TEST_P(TokenizerTest, GivesBackEveryText) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = random_utf8(random, random() % 40);
    ASSERT_EQ(find_invalid_utf8(text), std::string::npos);
    const auto ids = tokenizer_.encode(text);
    ASSERT_EQ(tokenizer_.decode(ids), text);
    for (const int32_t id : ids) ASSERT_FALSE(tokenizer_.is_unknown(id) || tokenizer_.is_control(id)) << text;
  }
  const std::string prose = made_up_text(77, 3000);
  EXPECT_EQ(tokenizer_.decode(tokenizer_.encode(prose)), prose);
}

TEST_P(TokenizerTest, GivesBackEveryCharacter) {
  std::string all;
  const auto tail = [&all](uint32_t c, int shift) { all += static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  // Every character of the basic plane; of the others, which byte pieces stand for, one of 13.
  for (uint32_t c = 0; c < 0x110000; c += c < 0x10000 ? 1 : 13) {
    if (c >= 0xD800 && c < 0xE000) continue;
    if (c < 0x80) {
      all += static_cast<char>(c);
    } else if (c < 0x800) {
      all += static_cast<char>(0xC0 | c >> 6);
      tail(c, 0);
    } else if (c < 0x10000) {
      all += static_cast<char>(0xE0 | c >> 12);
      tail(c, 6);
      tail(c, 0);
    } else {
      all += static_cast<char>(0xF0 | c >> 18);
      tail(c, 12);
      tail(c, 6);
      tail(c, 0);
    }
  }
  ASSERT_EQ(find_invalid_utf8(all), std::string::npos);
  EXPECT_EQ(tokenizer_.decode(tokenizer_.encode(all)), all);
}

TEST_P(TokenizerTest, HasPiecesForNewlineAndTab) {
  EXPECT_EQ(tokenizer_.encode("\n").size(), 1u);
  EXPECT_EQ(tokenizer_.encode("\t").size(), 1u);
  EXPECT_EQ(tokenizer_.encode("\xE2\x96\x81").size(), 3u);
  EXPECT_TRUE(tokenizer_.encode("").empty());
  EXPECT_EQ(tokenizer_.decode({}), "");
}

TEST_P(TokenizerTest, DecodesIncompleteBytesAsReplacement) {
  const auto ids = tokenizer_.encode("\xF0\x9F\x98\x80");
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_NE(tokenizer_.decode({ids[0], ids[1]}).find("\xEF\xBF\xBD"), std::string::npos);
  EXPECT_EQ(tokenizer_.decode({1, ids[0], ids[1], ids[2], ids[3], 2}), "\xF0\x9F\x98\x80");
}

TEST_P(TokenizerTest, RefusesForeignIds) {
  EXPECT_THROW(tokenizer_.decode({0, static_cast<int32_t>(tokenizer_.vocab_size())}), Error);
  EXPECT_THROW(tokenizer_.decode({-1}), Error);
  EXPECT_THROW(tokenizer_.piece(-1), Error);
}

TEST_P(TokenizerTest, CutsOnlyWhereNothingChanges) {
  std::mt19937_64 random(9);
  const std::string prose = made_up_text(5, 300);
  for (int i = 0; i < 600; ++i) {
    const std::string text = i % 2 == 0 ? random_utf8(random, 60) : prose.substr(0, 800);
    if (text.empty()) continue;
    const size_t at_least = random() % text.size();
    const size_t cut = tokenizer_.safe_cut(text, at_least);
    ASSERT_GE(cut, at_least);
    ASSERT_LE(cut, text.size());
    auto ids = tokenizer_.encode(text.substr(0, cut));
    const auto rest = tokenizer_.encode(text.substr(cut));
    ids.insert(ids.end(), rest.begin(), rest.end());
    ASSERT_EQ(ids, tokenizer_.encode(text)) << text << " cut at " << cut;
  }
  EXPECT_LT(tokenizer_.safe_cut(prose, 1000), 1100u);
  EXPECT_EQ(tokenizer_.safe_cut("a", 1), 1u);
  EXPECT_EQ(tokenizer_.safe_cut("", 0), 0u);
}

/// Text that no vocabulary gives a place to cut: memory for it must be bounded, its ids the same wherever
/// others cut it.
TEST_P(TokenizerTest, CutsEndlessWordsAtFixedPlaces) {
  std::mt19937_64 random(10);
  std::string words, spaces(150'000, ' '), accents;
  while (words.size() < 400'000) words += "kalomirtensa";
  while (accents.size() < 200'000) accents += "v\xC3\xA9";
  const std::string prose = made_up_text(6, 100);
  for (const std::string& text : {words, prose + words + prose + words, spaces + accents, accents + spaces}) {
    const auto whole = tokenizer_.encode(text);
    EXPECT_EQ(tokenizer_.decode(whole), text);
    std::vector<int32_t> joined;
    for (size_t begin = 0; begin < text.size();) {
      const std::string_view rest = std::string_view(text).substr(begin);
      const size_t at_least = random() % 300'000;
      const size_t cut = tokenizer_.safe_cut(rest, at_least);
      ASSERT_LE(cut, std::max(at_least, size_t{1}) + 70'000);
      const auto ids = tokenizer_.encode(rest.substr(0, cut));
      joined.insert(joined.end(), ids.begin(), ids.end());
      begin += cut;
    }
    EXPECT_EQ(joined, whole);
    std::vector<int32_t> remembered;
    Encoder(tokenizer_).encode(text, remembered);
    EXPECT_EQ(remembered, whole);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizerTest,
                         ::testing::Values(TokenizerModel::bpe, TokenizerModel::unigram));

TEST(TokenizerPlain, EqualsSentencePieceOnWholeTexts) {
  const auto tokenizer = SampleModels::get().load(TokenizerModel::bpe);
  sentencepiece::SentencePieceProcessor reference;
  ASSERT_TRUE(reference.Load(tokenizer.path()).ok());
  std::mt19937_64 random(4);
  std::vector<std::string> texts{made_up_text(31, 6000)};  // longer than a part
  for (int i = 0; i < 500; ++i) texts.push_back(random_utf8(random, 50));
  for (std::string text : texts) {
    for (size_t at = text.find("\xE2\x96\x81"); at != std::string::npos; at = text.find("\xE2\x96\x81"))
      text.erase(at, 3);
    std::vector<int> ids;
    ASSERT_TRUE(reference.Encode(text, &ids).ok());
    const auto ours = tokenizer.encode(text);
    ASSERT_EQ(std::vector<int>(ours.begin(), ours.end()), ids);
  }
}

TEST(TokenizerLoad, NamesTheFile) {
  const TemporaryFolder folder;
  const auto error_of = [](const std::string& path) -> std::string {
    try {
      Tokenizer::load(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(error_of(folder / "none.model").find("none.model"), std::string::npos);
  for (const std::string& content : {std::string(), std::string("hello\n"), std::string(1000, '\xFF')}) {
    write_file(folder / "bad.model", content);
    EXPECT_NE(error_of(folder / "bad.model").find("bad.model: not a SentencePiece model"), std::string::npos);
  }
  const std::string whole = read_file(SampleModels::get().path(TokenizerModel::bpe));
  write_file(folder / "half.model", whole.substr(0, whole.size() / 2));
  EXPECT_NE(error_of(folder / "half.model").find("half.model"), std::string::npos);
}

}  // namespace
}  // namespace asplash::text
