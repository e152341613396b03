// Damages files on purpose, in ways that a shell cannot: asplash_bad_input_tool COMMAND FILE ...
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/data/manifest.h"
#include "asplash/data/shard_format.h"
#include "data/shard_seal.h"

namespace {

using namespace asplash;  // NOLINT: this file is the program's main
using Json = nlohmann::json;

/// flip FILE AT: another bit in the byte at AT, which counts from the end where it is negative.
void flip(const std::string& path, int64_t at) {
  std::string content = read_file(path);
  if (at < 0) at += static_cast<int64_t>(content.size());
  char& byte = content.at(static_cast<size_t>(at));
  byte = static_cast<char>(byte ^ 0x10);
  write_file_atomically(path, content);
}

/// The checksum that a checkpoint's manifest bears of its own list.
void renew_sum_of_files(Json& manifest) {
  if (!manifest.is_object() || !manifest.contains("xxh3_128_of_files")) return;
  const std::string list = manifest.at("files").dump();
  manifest["xxh3_128_of_files"] = hash_bytes(list.data(), list.size());
}

/// edit-json FILE PATCH: a JSON Patch (RFC 6902) applied to a JSON file. The checksums that manifests bear of
/// themselves are made to fit.
void edit_json(const std::string& path, const std::string& patch) {
  Json json = Json::parse(read_file(path)).patch(Json::parse(patch));
  renew_sum_of_files(json);
  const bool was_sealed = json.is_object() && json.erase("xxh3_128_of_the_above") > 0;
  write_file_atomically(path, was_sealed ? data::seal_manifest(json.dump(2)) : json.dump(2));
}

/// edit-tensors FILE PATCH: a JSON Patch applied to the header of a safetensors file; its data stays.
void edit_tensors(const std::string& path, const std::string& patch) {
  const std::string content = read_file(path);
  uint64_t length = 0;
  std::memcpy(&length, content.data(), sizeof length);
  const std::string header =
      Json::parse(content.substr(sizeof length, length)).patch(Json::parse(patch)).dump();
  const uint64_t new_length = header.size();
  std::string edited(sizeof new_length, '\0');
  std::memcpy(edited.data(), &new_length, sizeof new_length);
  write_file_atomically(path, edited + header + content.substr(sizeof length + length));
}

/// reseal FOLDER: lets a checkpoint's manifest name the files as they are now.
void reseal(const std::string& folder) {
  Json manifest = Json::parse(read_file(folder + "/manifest.json"));
  for (auto& [name, entry] : manifest.at("files").items()) {
    const std::string path = folder + "/" + name;
    entry = {{"bytes", std::filesystem::file_size(path)}, {"xxh3_128", hash_file(path)}};
  }
  renew_sum_of_files(manifest);
  write_file_atomically(folder + "/manifest.json", manifest.dump(2));
}

/// set-token FOLDER ID: the first token of a packed split with one shard of 16-bit tokens, and all checksums
/// that cover it.
void set_token(const std::string& folder, uint16_t id) {
  const std::string path = folder + "/shard-00000.tokens";
  std::string shard = read_file(path);
  data::ShardHeader header{};
  std::memcpy(&header, shard.data(), sizeof header);
  char* tokens = &shard[data::kHeaderBytes];
  std::memcpy(tokens, &id, sizeof id);
  const uint64_t block =
      hash64(tokens, std::min(data::kBlockBytes, header.index_offset - data::kHeaderBytes));
  std::memcpy(&shard[header.table_offset], &block, sizeof block);
  data::seal_shard(shard, header);
  write_file_atomically(path, shard);
  edit_json(folder + "/manifest.json", Json{{{"op", "replace"},
                                             {"path", "/shards/0/checksum"},
                                             {"value", data::checksum_text(header.checksum)}}}
                                           .dump());
}

void run(const std::vector<std::string>& words) {
  const std::string& command = words.at(0);
  if (command == "flip") return flip(words.at(1), std::stoll(words.at(2)));
  if (command == "edit-json") return edit_json(words.at(1), words.at(2));
  if (command == "edit-tensors") return edit_tensors(words.at(1), words.at(2));
  if (command == "reseal") return reseal(words.at(1));
  if (command == "set-token") return set_token(words.at(1), static_cast<uint16_t>(std::stoi(words.at(2))));
  fail("unknown command ", command);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run({argv + 1, argv + argc});
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "asplash_bad_input_tool: " << error.what() << "\n";
    return 1;
  }
}
