#pragma once

#include <string>

namespace asplash::data {
struct Manifest;
}
namespace asplash::checkpoint {
class Reader;
}

/// What every program that runs a checkpoint over packed data asks before it does.
namespace asplash::eval {

/// Throws asplash::Error unless the data was packed with the checkpoint's tokenizer. data: as the user named
/// it.
void check_tokenizer(const std::string& data, const data::Manifest& manifest,
                     const checkpoint::Reader& reader);

/// Throws asplash::Error unless the word is stream, packed or empty (as the checkpoint was trained).
void check_documents(const std::string& documents);

}  // namespace asplash::eval
