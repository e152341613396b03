#include "asplash/text/corpus_reader.h"

#include <gtest/gtest.h>

#include <filesystem>
#ifdef ASPLASH_HAVE_LIBARCHIVE
#include <archive.h>
#include <archive_entry.h>
#endif

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "text/sample_text.h"

namespace asplash::text {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> read_corpus(const CorpusOptions& options) {
  CorpusReader reader(options);
  std::vector<std::string> texts;
  for (Document document; reader.next(document);) {
    texts.push_back(document.text);
    EXPECT_LE(reader.bytes_consumed(), reader.bytes_total());
  }
  EXPECT_EQ(reader.bytes_consumed(), reader.bytes_total());
  return texts;
}

std::string error_of_reading(const CorpusOptions& options) {
  try {
    read_corpus(options);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class CorpusReaderTest : public ::testing::Test {
 protected:
  std::vector<std::string> read(const std::vector<std::string>& inputs) {
    options_.inputs = inputs;
    return read_corpus(options_);
  }
  void expect_error(const std::vector<std::string>& inputs, const std::string& part) {
    options_.inputs = inputs;
    const std::string message = error_of_reading(options_);
    EXPECT_NE(message.find(part), std::string::npos) << "'" << message << "' lacks '" << part << "'";
  }
  std::string write(const std::string& name, const std::string& content) {
    fs::create_directories(fs::path(folder_ / name).parent_path());
    write_file(folder_ / name, content);
    return folder_ / name;
  }

  TemporaryFolder folder_;
  CorpusOptions options_;
};

TEST_F(CorpusReaderTest, TakesATextFileAsOneDocument) {
  const std::string text = "a\r\nb\n\n" + made_up_text(1, 50000) + "\n";
  EXPECT_EQ(read({write("a.txt", text)}), (std::vector<std::string>{text}));
  EXPECT_EQ(read({write("empty.txt", "")}), (std::vector<std::string>{""}));
}

TEST_F(CorpusReaderTest, TakesEachJsonLineAsADocument) {
  const std::vector<std::string> texts{
      "one", "", "tw\"o\n\t\\", std::string("a\0b", 3), made_up_text(2, 30000), "\xF0\x9F\x98\x80"};
  EXPECT_EQ(read({write("a.jsonl", json_lines(texts))}), texts);
  EXPECT_EQ(read({write("b.jsonl", "\n{\"text\": \"x\"}\r\n  \n{\"text\":\"\\ud83d\\ude00\"}")}),
            (std::vector<std::string>{"x", "\xF0\x9F\x98\x80"}));
  EXPECT_TRUE(read({write("c.jsonl", "")}).empty());
}

TEST_F(CorpusReaderTest, TakesLongLines) {
  const std::string text(30 << 20, 'x');
  EXPECT_EQ(read({write("a.jsonl", json_lines({"a", text, "b"}))}),
            (std::vector<std::string>{"a", text, "b"}));
}

TEST_F(CorpusReaderTest, RefusesDocumentsThatMemoryShouldNotHold) {
  options_.most_document_bytes = 3 << 20;
  const std::string most(3 << 20, 'x');
  EXPECT_EQ(read({write("most.txt", most)}), (std::vector<std::string>{most}));
  expect_error({write("long.txt", most + "x")}, "long.txt: is longer than 3.0 MiB");
  EXPECT_EQ(read({write("most.jsonl", json_lines({"a", most.substr(100), "b"}))}).size(), 3U);
  for (const size_t bytes : {most.size(), 3 * most.size()}) {
    expect_error({write("long.jsonl", json_lines({"a", std::string(bytes, 'x'), "b"}))},
                 "long.jsonl:2: the line is longer than 3.0 MiB");
  }
}

TEST_F(CorpusReaderTest, ReadsFoldersAndPatternsInOrder) {
  write("in/b/2.txt", "b2");
  write("in/a.jsonl", json_lines({"a0", "a1"}));
  write("in/b/10.txt", "b10");
  write("in/notes.md", "not this");
  write("in/c.txt", "c");
  EXPECT_EQ(read({folder_ / "in"}), (std::vector<std::string>{"a0", "a1", "b10", "b2", "c"}));
  EXPECT_EQ(read({folder_ / "in/b/*.txt", folder_ / "in/c.txt"}),
            (std::vector<std::string>{"b10", "b2", "c"}));
  EXPECT_EQ(read({folder_ / "in/?"}), (std::vector<std::string>{"b10", "b2"}));
}

TEST_F(CorpusReaderTest, NamesInputsThatNameNothing) {
  fs::create_directories(folder_ / "empty");
  expect_error({folder_ / "none.txt"}, "none.txt: no such file");
  expect_error({folder_ / "*.txt"}, "no file matches");
  expect_error({folder_ / "empty"}, "holds no file ending in .txt");
  expect_error({write("a.csv", "x")}, "a.csv: cannot tell the format");
}

TEST_F(CorpusReaderTest, NamesFileAndLineOfBadJson) {
  expect_error({write("a.jsonl", "{\"text\": \"x\"}\n\n{\"text\": \"y\"\n")}, "a.jsonl:3: not valid JSON");
  expect_error({write("b.jsonl", "[1]\n")}, "b.jsonl:1: must be a JSON object");
  expect_error({write("c.jsonl", "{\"id\": 1, \"body\": \"\"}\n")},
               "c.jsonl:1: has no field 'text' (it has: body, id)");
  expect_error({write("d.jsonl", "{\"text\": 5}\n")}, "d.jsonl:1: field 'text' must be a string, is number");
  options_.text_field = "body";
  EXPECT_EQ(read({write("e.jsonl", "{\"id\": 1, \"body\": \"b\"}\n")}), (std::vector<std::string>{"b"}));
}

TEST_F(CorpusReaderTest, ReplacesOrRefusesInvalidUtf8) {
  const std::string text = write("a.txt", "x\xFFy");
  const std::string lines = write("b.jsonl", "{\"text\": \"ok\"}\n{\"text\": \"x\xC3\"}\n");
  options_.inputs = {text, lines};
  CorpusReader reader(options_);
  std::vector<std::string> texts;
  for (Document document; reader.next(document);) texts.push_back(document.text);
  EXPECT_EQ(texts, (std::vector<std::string>{"x\xEF\xBF\xBDy", "ok", "x\xEF\xBF\xBD"}));
  EXPECT_EQ(reader.replaced(), 2);
  options_.invalid_utf8 = InvalidUtf8::refuse;
  expect_error({text}, "a.txt: invalid UTF-8 at byte 1 of the file");
  expect_error({lines}, "b.jsonl:2: invalid UTF-8");
}

TEST_F(CorpusReaderTest, ReplacesOrRefusesHalvesOfSurrogatePairs) {
  const std::string r = "\xEF\xBF\xBD";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"(a\ud83db)", "a" + r + "b"},
      {R"(\uDE00)", r},
      {R"(\ud83d\ud83d\ude00)", r + "\xF0\x9F\x98\x80"},
      {R"(\ude00\ud83d)", r + r},
      {R"(\ud83d\n\ude00)", r + "\n" + r},
      {R"(\ud83d\ude00 \u00e9 \\ud83d \\\ud83d)", "\xF0\x9F\x98\x80 \xC3\xA9 \\ud83d \\" + r},
  };
  std::string lines;
  for (const auto& [json, text] : cases) lines += "{\"text\": \"" + json + "\"}\n";
  options_.inputs = {write("s.jsonl", lines)};
  CorpusReader reader(options_);
  for (const auto& [json, text] : cases) {
    Document document;
    ASSERT_TRUE(reader.next(document)) << json;
    EXPECT_EQ(document.text, text) << json;
  }
  EXPECT_EQ(reader.replaced(), 8);
  options_.invalid_utf8 = InvalidUtf8::refuse;
  expect_error(options_.inputs, "s.jsonl:1: the escape \\ud83d at byte 11 is half of a surrogate pair");
}

#ifdef ASPLASH_HAVE_LIBARCHIVE
std::string compressed(const std::string& content, const std::string& ending) {
  std::vector<char> out(content.size() * 2 + (1 << 20));
  size_t used = 0;
  archive* writer = archive_write_new();
  if (ending == ".xz") archive_write_add_filter_xz(writer);
  if (ending == ".gz") archive_write_add_filter_gzip(writer);
  if (ending == ".zst") archive_write_add_filter_zstd(writer);
  if (ending == ".bz2") archive_write_add_filter_bzip2(writer);
  archive_write_set_format_raw(writer);
  archive_write_set_bytes_in_last_block(writer, 1);
  archive_write_open_memory(writer, out.data(), out.size(), &used);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_write_header(writer, entry);
  archive_write_data(writer, content.data(), content.size());
  archive_entry_free(entry);
  archive_write_close(writer);
  archive_write_free(writer);
  return {out.data(), used};
}

class Compressed : public CorpusReaderTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(Compressed, IsReadLikeThePlainFile) {
  const std::vector<std::string> texts{made_up_text(1, 20000), "short", made_up_text(2, 2000)};
  EXPECT_EQ(read({write("a.jsonl" + GetParam(), compressed(json_lines(texts), GetParam()))}), texts);
  EXPECT_EQ(read({write("a.txt" + GetParam(), compressed(texts[0], GetParam()))}),
            (std::vector<std::string>{texts[0]}));
  EXPECT_EQ(read({write("e.txt" + GetParam(), compressed("", GetParam()))}), (std::vector<std::string>{""}));
}

TEST_P(Compressed, ReadsStreamsThatFollowEachOther) {
  const std::string content = compressed("one\n", GetParam()) + compressed("two\n", GetParam());
  EXPECT_EQ(read({write("a.txt" + GetParam(), content)}), (std::vector<std::string>{"one\ntwo\n"}));
}

TEST_P(Compressed, IsRefusedWhenTruncated) {
  const std::string whole = compressed(json_lines({made_up_text(1, 20000), "last"}), GetParam());
  for (const size_t size : {size_t{0}, size_t{3}, size_t{30}, whole.size() / 3, whole.size() - 30,
                            whole.size() - 5, whole.size() - 1}) {
    const std::string name = str("cut", size, ".jsonl", GetParam());
    expect_error({write(name, whole.substr(0, size))}, name);
  }
}

TEST_P(Compressed, IsRefusedWhenDamaged) {
  std::string whole = compressed(json_lines({made_up_text(1, 20000), "last"}), GetParam());
  whole[whole.size() / 2] = static_cast<char>(~whole[whole.size() / 2]);
  expect_error({write("bad.jsonl" + GetParam(), whole)}, "bad.jsonl");
}

TEST_P(Compressed, IsRefusedWhenItIsNot) {
  expect_error({write("plain.txt" + GetParam(), "plain text, long enough to be looked at")},
               "plain.txt" + GetParam());
}

TEST_F(CorpusReaderTest, VerifiesGzipChecksums) {
  std::string whole = compressed("some text", ".gz");
  const size_t checksum = whole.size() - 8;
  whole[checksum] = static_cast<char>(whole[checksum] ^ 1);
  expect_error({write("sum.txt.gz", whole)}, "sum.txt.gz: damaged gzip data (incorrect data check)");
  whole[checksum] = static_cast<char>(whole[checksum] ^ 1);
  EXPECT_EQ(read({write("padded.txt.gz", whole + std::string(1000, '\0'))}),
            (std::vector<std::string>{"some text"}));
  expect_error({write("more.txt.gz", whole + "x")}, "more.txt.gz");
}

INSTANTIATE_TEST_SUITE_P(Kinds, Compressed, ::testing::Values(".xz", ".gz", ".zst", ".bz2"),
                         [](const auto& kind) { return kind.param.substr(1); });
#endif

}  // namespace
}  // namespace asplash::text
