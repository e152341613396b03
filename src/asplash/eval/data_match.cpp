#include "asplash/eval/data_match.h"

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/checkpoint/checkpoint.h"
#include "asplash/checkpoint/model_loading.h"
#include "asplash/data/dataset.h"

namespace asplash::eval {

void check_tokenizer(const std::string& data, const data::Manifest& manifest,
                     const checkpoint::Reader& reader) {
  const std::string hash = hash_file(checkpoint::tokenizer_of(reader));
  if (hash == manifest.tokenizer_hash) return;
  fail("data ", data, " was packed with tokenizer ", manifest.tokenizer_hash, ", checkpoint ", reader.path(),
       " was trained with tokenizer ", hash, ": pack the text with ", reader.tokenizer_file());
}

void check_documents(const std::string& documents) {
  if (!documents.empty() && documents != "stream" && documents != "packed")
    fail("documents '", documents, "': must be stream or packed");
}

}  // namespace asplash::eval
