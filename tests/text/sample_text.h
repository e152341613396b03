#pragma once

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "asplash/text/tokenizer.h"
#include "asplash/text/tokenizer_training.h"
#include "temporary_folder.h"

namespace asplash::text {

/// Made-up prose: words of syllables, sentences, paragraphs; some indented and some accented words.
inline std::string made_up_text(uint64_t seed, int sentences) {
  static const std::vector<std::string> kSyllables{"ka", "lo",  "mir", "ten",  "sa",  "vé",
                                                   "ru", "ndi", "po",  "über", "the", "an"};
  std::mt19937_64 random(seed);
  std::string text;
  for (int s = 0; s < sentences; ++s) {
    for (uint64_t w = 0, words = 3 + random() % 9; w < words; ++w) {
      // A skewed choice: natural text repeats its words.
      std::mt19937_64 word(random() % (1 + random() % 400));
      if (w > 0) text += random() % 40 == 0 ? "  " : " ";
      for (uint64_t k = 0, count = 1 + word() % 3; k < count; ++k)
        text += kSyllables[word() % kSyllables.size()];
      if (random() % 20 == 0) text += std::to_string(random() % 2000);
    }
    text += random() % 4 == 0 ? ".\n\n\t" : ". ";
  }
  return text;
}

/// Random valid UTF-8 with a liking for what is difficult: separators, U+2581 and its neighbours, controls,
/// NUL, the spelling of control and byte pieces, emoji, and all of Unicode.
inline std::string random_utf8(std::mt19937_64& random, size_t characters) {
  static const std::vector<std::string> kDifficult{" ",
                                                   "  ",
                                                   "\n",
                                                   "\t",
                                                   "\r\n",
                                                   std::string(1, '\0'),
                                                   "\xE2\x96\x81",
                                                   "\xE2\x96\x85",
                                                   "\xE2\x96",
                                                   "<s>",
                                                   "</s>",
                                                   "<unk>",
                                                   "<0x0A>",
                                                   "\xF0\x9F\x98\x80",
                                                   "\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9",
                                                   "\xEF\xBF\xBD",
                                                   "\xEF\xBB\xBF",
                                                   "\xC2\xA0",
                                                   "\xE3\x80\x80",
                                                   "e\xCC\x81",
                                                   "\x7F",
                                                   "\xE4\xB8\xAD\xE6\x96\x87",
                                                   "the",
                                                   "kalo",
                                                   " an"};
  std::string text;
  for (size_t i = 0; i < characters; ++i) {
    switch (random() % 4) {
      case 0: {
        const std::string& part = kDifficult[random() % kDifficult.size()];
        if (part != "\xE2\x96") text += part;
        break;
      }
      case 1:
        text += static_cast<char>(random() % 128);
        break;
      case 2:
        text += static_cast<char>('a' + random() % 26);
        break;
      default: {
        auto c = static_cast<uint32_t>(random() % 0x110000);
        if (random() % 2 == 0) c %= 0x3000;
        if (c >= 0xD800 && c < 0xE000) c = 0x2581;
        if (c < 0x80) {
          text += static_cast<char>(c);
        } else if (c < 0x800) {
          text += static_cast<char>(0xC0 | c >> 6);
          text += static_cast<char>(0x80 | (c & 0x3F));
        } else if (c < 0x10000) {
          text += static_cast<char>(0xE0 | c >> 12);
          text += static_cast<char>(0x80 | (c >> 6 & 0x3F));
          text += static_cast<char>(0x80 | (c & 0x3F));
        } else {
          text += static_cast<char>(0xF0 | c >> 18);
          text += static_cast<char>(0x80 | (c >> 12 & 0x3F));
          text += static_cast<char>(0x80 | (c >> 6 & 0x3F));
          text += static_cast<char>(0x80 | (c & 0x3F));
        }
      }
    }
  }
  return text;
}

inline void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

inline std::string json_lines(const std::vector<std::string>& documents) {
  std::string lines;
  for (size_t i = 0; i < documents.size(); ++i)
    lines += nlohmann::json{{"id", i}, {"text", documents[i]}}.dump() + "\n";
  return lines;
}

/// A folder with a small BPE and a small unigram model, trained once for all tests of a program.
class SampleModels {
 public:
  SampleModels() {
    write_file(folder_ / "text.txt", made_up_text(1, 4000));
    TokenizerTrainingOptions options;
    options.corpus.inputs = {folder_ / "text.txt"};
    options.vocab_size = 600;
    train_tokenizer(options, path(TokenizerModel::bpe));
    options.model = TokenizerModel::unigram;
    options.vocab_size = 500;
    train_tokenizer(options, path(TokenizerModel::unigram));
  }
  static const SampleModels& get() {
    static const SampleModels models;
    return models;
  }
  std::string path(TokenizerModel model) const {
    return folder_ / (model == TokenizerModel::bpe ? "bpe.model" : "unigram.model");
  }
  Tokenizer load(TokenizerModel model) const { return Tokenizer::load(path(model)); }

 private:
  TemporaryFolder folder_;
};

}  // namespace asplash::text
