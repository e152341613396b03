// The corpus reader on JSON Lines. Input: a byte (odd: invalid UTF-8 is refused, even: replaced), then the
// file's content.
#include "asplash/text/corpus_reader.h"
#include "fuzz/fuzz.h"

namespace asplash::fuzz {
namespace {

void read(Bytes input, const ScratchFolder& folder) {
  text::CorpusOptions options;
  options.invalid_utf8 = input.byte() % 2 == 1 ? text::InvalidUtf8::refuse : text::InvalidUtf8::replace;
  options.inputs = {folder.write("corpus.jsonl", input.rest())};
  refusal([&] {
    text::CorpusReader reader(options);
    text::Document document;
    while (reader.next(document)) {
      require(is_valid_utf8(document.text), "a document of invalid UTF-8");
      require(document.origin.rfind(options.inputs[0] + ":", 0) == 0, "an origin that is not FILE:LINE");
    }
    require(reader.bytes_consumed() == reader.bytes_total(), "not all bytes were consumed");
    const bool refuses = options.invalid_utf8 == text::InvalidUtf8::refuse;
    require(reader.replaced() >= 0 && !(refuses && reader.replaced() > 0), "the count of what was replaced");
  });
}

}  // namespace

std::vector<std::string> seeds() {
  const std::string lines =
      "{\"text\": \"In the beginning \\u00e9\\n\", \"id\": 1}\n"
      "\n"
      "{\"id\": [1, 2.5e3, {\"a\": null}], \"text\": \"\xe4\xb8\xad \xf0\x9f\x98\x80 \\ud83d\\ude00\"}\r\n"
      "{\"text\": \"\"}";
  const std::string broken = "{\"text\": \"caf\xe9 \xed\xa0\x80\"}\n";
  return {'\0' + lines,
          '\1' + lines,
          '\0' + broken,
          '\1' + broken,
          '\0' + lines + "\n[1]\n",
          '\0' + lines + "\n{\"body\": 1}\n"};
}

}  // namespace asplash::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const asplash::fuzz::ScratchFolder folder;
  asplash::fuzz::read({data, size}, folder);
  return 0;
}
