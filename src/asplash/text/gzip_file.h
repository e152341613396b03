#pragma once

#include <memory>
#include <string>

#include "asplash/text/byte_source.h"

namespace asplash::text {

/// A gzip file (RFC 1952) through zlib: one member or several in a row, zeros behind the last one allowed.
/// The checksum and length at the end of each member are verified, which libarchive does not do. `compressed`
/// are the file's own bytes, `path` is for messages. Throws asplash::Error for what is no gzip data, is
/// damaged, or ends early.
std::unique_ptr<ByteSource> open_gzip(std::unique_ptr<ByteSource> compressed, const std::string& path);

}  // namespace asplash::text
