#include "asplash/data/manifest.h"

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/text.h"
#include "asplash/base/version.h"

namespace asplash::data {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "asplash-tokens";
/// 2: the last member is a checksum of all bytes before it.
constexpr int kFormatVersion = 2;
constexpr int kFormatVersionWithoutSum = 1;
constexpr const char* kSumKey = "\"xxh3_128_of_the_above\": ";

constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
constexpr size_t kLongestText = 4096;

/// A value for a message. Lists and objects are not written out: nested deep enough, that would take all
/// stack.
std::string seen(const json& value) {
  return value.is_structured() ? str("an ", value.type_name()) : shown(value.dump());
}

/// Reads an object's members, naming file and key where one is missing or of another type.
class Members {
 public:
  Members(const json& object, std::string file, std::string prefix)
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {
    if (!object_.is_object())
      fail(file_, ": ", prefix_.empty() ? "the file" : prefix_, " must be a JSON object");
  }

  const json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) fail(file_, ": key '", prefix_, key, "' is missing");
    return *found;
  }
  std::string text(const char* key) const {
    const json& value = at(key);
    if (!value.is_string()) fail(file_, ": ", prefix_, key, " must be a string, got ", seen(value));
    std::string content = value.get<std::string>();
    // File names and hashes, which messages repeat.
    if (shown(content, kLongestText) != content)
      fail(file_, ": ", prefix_, key, " holds control characters or is too long: ", shown(content));
    return content;
  }
  int64_t integer(const char* key, int64_t low) const {
    const json& value = at(key);
    const bool fits =
        value.is_number_integer() && (!value.is_number_unsigned() || value.get<uint64_t>() <= kMost);
    if (!fits || value.get<int64_t>() < low)
      fail(file_, ": ", prefix_, key, " must be an integer of at least ", low, ", got ", seen(value));
    return value.get<int64_t>();
  }

 private:
  const json& object_;
  std::string file_;
  std::string prefix_;
};

/// manifest.json of a folder; a file stands for itself.
std::string manifest_path(const std::string& path_or_folder) {
  namespace fs = std::filesystem;
  if (!fs::exists(path_or_folder))
    fail("cannot open data ", path_or_folder,
         ": no such file or folder (a split's manifest.json, or its folder)");
  if (!fs::is_directory(path_or_folder)) return path_or_folder;
  const std::string path = (fs::path(path_or_folder) / kManifestFile).string();
  if (fs::exists(path)) return path;
  for (const auto& entry : fs::directory_iterator(path_or_folder)) {
    if (fs::exists(entry.path() / kManifestFile))
      fail(path_or_folder, " holds several splits: name one of them, for example ", entry.path().string());
    if (entry.path().extension() == ".tmp")
      fail(path_or_folder, " has no ", kManifestFile,
           ": packing was interrupted; run asplash-data pack again");
  }
  fail(path_or_folder, " has no ", kManifestFile, ": not a packed split, or packing was interrupted");
}

/// What stands behind the last comma of a sealed manifest whose other bytes are `above`.
std::string seal_of(const std::string& above) {
  return str("\n  ", kSumKey, '"', hash_bytes(above.data(), above.size()), "\"\n}\n");
}

/// By its bytes and not by what they say, so that deep nesting needs no stack.
void check_seal(const std::string& path, const std::string& content) {
  const size_t key = content.rfind(kSumKey);
  const size_t comma = key == std::string::npos ? key : content.rfind(',', key);
  if (comma != std::string::npos && content.substr(comma + 1) == seal_of(content.substr(0, comma + 1)))
    return;
  fail(path, ": the manifest is damaged or was edited: its XXH3-128 differs; pack the text again");
}

json parse(const std::string& path, const std::string& content) {
  try {
    return json::parse(content);
  } catch (const json::exception& error) {
    fail(path, ": not valid JSON: ", json_reason(error));
  }
}

void read_tokenizer(const Members& members, const std::filesystem::path& folder, Manifest& manifest) {
  manifest.vocab_size = members.integer("vocab_size", 1);
  if (manifest.vocab_size > std::numeric_limits<int32_t>::max())
    fail(manifest.path, ": tokenizer.vocab_size must be below 2^31, as token ids are, got ",
         manifest.vocab_size);
  manifest.bos_id = members.integer("bos_id", -1);
  manifest.eos_id = members.integer("eos_id", -1);
  if (members.at("file").is_null()) return;
  manifest.tokenizer_hash = members.text("hash");
  manifest.tokenizer_file = (folder / members.text("file")).lexically_normal().string();
}

}  // namespace

DetailedManifest read_detailed_manifest(const std::string& path_or_folder) {
  DetailedManifest result;
  Manifest& manifest = result.manifest;
  manifest.path = manifest_path(path_or_folder);
  const std::filesystem::path folder = std::filesystem::path(manifest.path).parent_path();
  const std::string content = read_file(manifest.path);
  const json root = parse(manifest.path, content);
  const Members members(root, manifest.path, "");
  if (members.text("format") != kFormat)
    fail(manifest.path, ": format is '", shown(members.text("format")), "', expected '", kFormat, "'");
  const int64_t format_version = members.integer("format_version", 1);
  if (format_version != kFormatVersion && format_version != kFormatVersionWithoutSum)
    fail(manifest.path, ": format_version is ", format_version, ", this program reads ",
         kFormatVersionWithoutSum, " and ", kFormatVersion);
  manifest.split = members.text("split");
  manifest.tokens = members.integer("tokens", 0);
  manifest.documents = members.integer("documents", 0);
  manifest.text_bytes = members.integer("text_bytes", 0);
  read_tokenizer(Members(members.at("tokenizer"), manifest.path, "tokenizer."), folder, manifest);
  const json& shards = members.at("shards");
  if (!shards.is_array() || shards.empty())
    fail(manifest.path, ": shards must be a list of at least one shard");
  for (size_t i = 0; i < shards.size(); ++i) {
    const Members shard(shards[i], manifest.path, str("shards[", i, "]."));
    result.shards.push_back({shard.text("file"), shard.integer("bytes", 0), shard.integer("tokens", 0),
                             shard.integer("documents", 0), shard.text("checksum")});
    manifest.shard_files.push_back((folder / result.shards.back().file).string());
  }
  if (format_version != kFormatVersionWithoutSum) check_seal(manifest.path, content);
  return result;
}

Manifest read_manifest(const std::string& path_or_folder) {
  return read_detailed_manifest(path_or_folder).manifest;
}

void write_manifest(const std::string& path, const Manifest& manifest, int64_t token_bytes,
                    const std::vector<ShardSummary>& shards, const Provenance& provenance) {
  using ordered = nlohmann::ordered_json;
  ordered root;
  root["format"] = kFormat;
  root["format_version"] = kFormatVersion;
  root["program"] = str("asplash ", version(), " (", git_commit(), ")");
  root["split"] = manifest.split;
  root["tokens"] = manifest.tokens;
  root["documents"] = manifest.documents;
  root["text_bytes"] = manifest.text_bytes;
  root["token_bytes"] = token_bytes;
  const bool has_tokenizer = !manifest.tokenizer_hash.empty();
  root["tokenizer"] = {{"file", has_tokenizer ? ordered(str("../", kTokenizerFile)) : ordered()},
                       {"hash", manifest.tokenizer_hash},
                       {"vocab_size", manifest.vocab_size},
                       {"bos_id", manifest.bos_id},
                       {"eos_id", manifest.eos_id}};
  root["shards"] = ordered::array();
  for (const ShardSummary& shard : shards) {
    root["shards"].push_back({{"file", shard.file},
                              {"bytes", shard.bytes},
                              {"tokens", shard.tokens},
                              {"documents", shard.documents},
                              {"checksum", shard.checksum}});
  }
  root["sources"] = ordered::array();
  for (const auto& [source, bytes] : provenance.sources)
    root["sources"].push_back({{"path", source}, {"bytes", bytes}});
  root["options"] = ordered::object();
  for (const auto& [key, value] : provenance.options) root["options"][key] = value;
  // File names may hold bytes that are not UTF-8, which JSON cannot: they are replaced, not refused.
  write_file_atomically(path, seal_manifest(root.dump(2, ' ', false, ordered::error_handler_t::replace)));
}

std::string seal_manifest(std::string text) {
  const size_t end = text.find_last_of('}');
  if (end == std::string::npos) return text;  // no object
  text.resize(end);
  text.resize(text.find_last_not_of(" \n") + 1);
  text += ',';
  return text + seal_of(text);
}

}  // namespace asplash::data
