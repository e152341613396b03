#include "asplash/checkpoint/manifest.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/text.h"

namespace asplash::checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kFormat = "asplash checkpoint";
/// 2: the manifest bears a checksum of its own list.
constexpr int kVersion = 2;
constexpr int kVersionWithoutOwnSum = 1;

/// Of the list as JSON without spaces, keys in order: damage to the manifest is then told from damage to a
/// file.
std::string own_sum(const Json& files) {
  const std::string text = files.dump();
  return hash_bytes(text.data(), text.size());
}

/// Before the list is written out again for its sum, which nesting without end would take all stack for.
std::string shape_damage(const Json& files) {
  if (!files.is_object()) return "manifest.json: files must be an object";
  for (const auto& [name, entry] : files.items()) {
    if (name.empty() || name.find('/') != std::string::npos)
      return "manifest.json: bad file name " + shown(name);
    const bool complete = entry.is_object() && entry.size() == 2 && entry.contains("bytes") &&
                          entry["bytes"].is_number_unsigned() && entry.contains("xxh3_128") &&
                          entry["xxh3_128"].is_string();
    if (!complete) return "manifest.json: " + shown(name) + " must have the numbers bytes and xxh3_128 alone";
  }
  return "";
}

std::string file_damage(const std::string& folder, const std::string& name, const Json& entry,
                        Verify verify) {
  const std::string path = folder + "/" + name;
  const auto expected = entry.at("bytes").get<uint64_t>();
  std::error_code error;
  const uint64_t actual = fs::file_size(path, error);
  if (error) return str(name, " cannot be read: ", error.message());
  if (actual != expected) return str(name, " has ", actual, " bytes, the manifest says ", expected);
  if (verify == Verify::checksums && hash_file(path) != entry.at("xxh3_128").get<std::string>()) {
    return str(name, " is damaged: its XXH3-128 differs from the manifest's");
  }
  return "";
}

std::string damage(const std::string& folder, const std::vector<std::string>& required, Verify verify) {
  const Json manifest = Json::parse(read_file(folder + "/manifest.json"));
  const Json& format = manifest.at("format");
  if (format != kFormat) {
    return str("manifest.json is of ",
               format.is_string() ? "format " + shown(format.get<std::string>()) : "another format",
               ", not of ", kFormat);
  }
  const Json& version = manifest.at("version");
  const bool has_own_sum = version != kVersionWithoutOwnSum;
  if (has_own_sum && version != kVersion) {
    return str("manifest.json is of version ", version.is_number() ? version.dump() : version.type_name(),
               ", this program reads ", kVersionWithoutOwnSum, " and ", kVersion);
  }
  const Json& files = manifest.at("files");
  if (const std::string problem = shape_damage(files); !problem.empty()) return problem;
  if (has_own_sum && manifest.at("xxh3_128_of_files") != own_sum(files)) {
    return "manifest.json is damaged: the XXH3-128 of its list differs";
  }
  for (const std::string& name : required) {
    if (!files.contains(name)) return str("manifest.json does not list ", name);
  }
  for (const auto& item : files.items()) {
    const std::string problem = file_damage(folder, item.key(), item.value(), verify);
    if (!problem.empty()) return problem;
  }
  return "";
}

}  // namespace

void write_manifest(const std::string& folder, const std::vector<std::string>& files) {
  Json entries = Json::object();
  for (const std::string& name : files) {
    const std::string path = folder + "/" + name;
    entries[name] = {{"bytes", fs::file_size(path)}, {"xxh3_128", hash_file(path)}};
  }
  const Json manifest = {{"format", kFormat},
                         {"version", kVersion},
                         {"files", entries},
                         {"xxh3_128_of_files", own_sum(entries)}};
  write_file_atomically(folder + "/manifest.json", manifest.dump(2) + "\n");
}

std::string find_damage(const std::string& folder, const std::vector<std::string>& required, Verify verify) {
  if (!fs::exists(folder + "/manifest.json")) return "it has no manifest.json: its writing did not end";
  try {
    return damage(folder, required, verify);
  } catch (const Json::exception& error) {
    return str("manifest.json is damaged: ", json_reason(error));
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace asplash::checkpoint
