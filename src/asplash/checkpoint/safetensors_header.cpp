#include "asplash/checkpoint/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "asplash/base/error.h"
#include "asplash/base/text.h"

namespace asplash::checkpoint {
namespace {

using Json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
/// The format's own limit, against files that make a reader allocate without bound.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 64;
/// A header is an object of objects of lists; deeper nesting is no header and would cost stack to print.
constexpr int kMaxDepth = 4;

std::optional<uint64_t> element_bytes(const std::string& dtype) {
  static const std::map<std::string, uint64_t> kBytes = {
      {"F64", 8}, {"I64", 8}, {"U64", 8}, {"F32", 4}, {"I32", 4},  {"U32", 4},     {"F16", 2},    {"BF16", 2},
      {"I16", 2}, {"U16", 2}, {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  const auto found = kBytes.find(dtype);
  if (found == kBytes.end()) return std::nullopt;
  return found->second;
}

/// Parses the JSON text; also refuses a key given twice, which the JSON library would let pass.
Json parse_json(const std::string& path, const char* begin, const char* end) {
  std::vector<std::set<std::string>> open_objects;
  std::string duplicate;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) fail(path, ": header is nested deeper than a safetensors header");
    if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == Json::parse_event_t::object_end) open_objects.pop_back();
    if (event == Json::parse_event_t::key && !open_objects.back().insert(value.get<std::string>()).second) {
      duplicate = value.get<std::string>();
    }
    return true;
  };
  try {
    Json json = Json::parse(begin, end, watch);
    if (!duplicate.empty()) fail(path, ": header: key ", shown(duplicate), " is given twice");
    return json;
  } catch (const Json::exception& error) {
    fail(path, ": header is not JSON: ", json_reason(error));
  }
}

uint64_t unsigned_value(const std::string& where, const Json& value) {
  if (!value.is_number_unsigned()) fail(where, ": ", shown(value.dump()), " is not a non-negative integer");
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    fail(where, ": ", number, " is too large");
  return number;
}

/// Bytes of a tensor; refuses what does not fit into 63 bits, however the zeros and large sizes are arranged.
uint64_t tensor_bytes(const std::string& where, const std::vector<int64_t>& shape, uint64_t element) {
  constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t bytes = element;
  bool empty = false;
  for (const int64_t size : shape) {
    const auto factor = static_cast<uint64_t>(size);
    empty = empty || factor == 0;
    if (factor > 1 && bytes > kMax / factor) fail(where, ": shape has more bytes than any file");
    bytes *= std::max<uint64_t>(factor, 1);
  }
  return empty ? 0 : bytes;
}

TensorEntry parse_entry(const std::string& path, const std::string& name, const Json& json,
                        uint64_t data_bytes) {
  const std::string where = str(path, ": tensor ", shown(name));
  if (!json.is_object() || json.size() != 3 || !json.contains("dtype") || !json.contains("shape") ||
      !json.contains("data_offsets")) {
    fail(where, ": must have exactly the keys dtype, shape and data_offsets");
  }
  TensorEntry entry;
  entry.name = name;
  if (!json["dtype"].is_string()) fail(where, ": dtype is not a string");
  entry.dtype = json["dtype"].get<std::string>();
  const auto element = element_bytes(entry.dtype);
  if (!element) fail(where, ": unknown dtype ", shown(json["dtype"].dump()));
  if (!json["shape"].is_array() || json["shape"].size() > kMaxDimensions) {
    fail(where, ": shape is not a list of at most ", kMaxDimensions, " sizes");
  }
  for (const Json& size : json["shape"]) {
    entry.shape.push_back(static_cast<int64_t>(unsigned_value(where + ": shape", size)));
  }
  const Json& offsets = json["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) fail(where, ": data_offsets is not a list of two numbers");
  entry.begin = unsigned_value(where + ": data_offsets", offsets[0]);
  entry.end = unsigned_value(where + ": data_offsets", offsets[1]);
  if (entry.begin > entry.end || entry.end > data_bytes) {
    fail(where, ": data_offsets [", entry.begin, ", ", entry.end, "] lie outside the file's ", data_bytes,
         " bytes of data");
  }
  const uint64_t bytes = tensor_bytes(where, entry.shape, *element);
  if (entry.end - entry.begin != bytes) {
    fail(where, ": data_offsets span ", entry.end - entry.begin, " bytes, shape and dtype need ", bytes);
  }
  return entry;
}

std::map<std::string, std::string> parse_metadata(const std::string& path, const Json& json) {
  if (!json.is_object()) fail(path, ": __metadata__ is not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& item : json.items()) {
    if (!item.value().is_string()) fail(path, ": __metadata__: ", shown(item.key()), " is not a string");
    metadata[item.key()] = item.value().get<std::string>();
  }
  return metadata;
}

/// Sorts by offset and checks that the tensors cover the data, each byte once.
void check_cover(const std::string& path, std::vector<TensorEntry>& tensors, uint64_t data_bytes) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const TensorEntry& entry : tensors) {
    if (entry.begin != covered) {
      fail(path, ": tensor ", shown(entry.name), ": starts at byte ", entry.begin,
           " of the data, the one before ends at ", covered);
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    fail(path, ": the tensors end at byte ", covered, " of the data, the file has ", data_bytes);
  }
}

}  // namespace

std::string format_header(const Header& header) {
  Json json = Json::object();
  if (!header.metadata.empty()) json["__metadata__"] = header.metadata;
  for (const TensorEntry& entry : header.tensors) {
    json[entry.name] = {
        {"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {entry.begin, entry.end}}};
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::string bytes(kLengthBytes, '\0');
  for (size_t i = 0; i < kLengthBytes; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + text;
}

Header parse_header(const std::string& path, const std::byte* data, size_t size) {
  if (size < kLengthBytes) fail(path, ": ", size, " bytes are too short for a safetensors file");
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= std::to_integer<uint64_t>(data[i]) << (8 * i);
  if (length > kMaxHeaderBytes)
    fail(path, ": header length ", length, " is over the format's ", kMaxHeaderBytes);
  if (length > size - kLengthBytes) {
    fail(path, ": header length ", length, " is more than the file's ", size, " bytes hold");
  }
  const auto* text = reinterpret_cast<const char*>(data + kLengthBytes);
  if (length == 0 || text[0] != '{') fail(path, ": header does not start with {");
  const Json json = parse_json(path, text, text + length);
  if (!json.is_object()) fail(path, ": header is not an object");

  Header header;
  header.bytes = kLengthBytes + length;
  const uint64_t data_bytes = size - header.bytes;
  for (const auto& item : json.items()) {
    if (item.key() == "__metadata__") {
      header.metadata = parse_metadata(path, item.value());
    } else {
      header.tensors.push_back(parse_entry(path, item.key(), item.value(), data_bytes));
    }
  }
  check_cover(path, header.tensors, data_bytes);
  return header;
}

}  // namespace asplash::checkpoint
