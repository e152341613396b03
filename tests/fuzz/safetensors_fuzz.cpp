// The safetensors reader. Input: a byte, then (even) the file itself, or (odd) the JSON of the header, a zero
// byte and the data, from which the file is made with the right header length.
#include <ATen/ATen.h>

#include "asplash/base/files.h"
#include "asplash/checkpoint/safetensors.h"
#include "fuzz/fuzz.h"

namespace asplash::fuzz {
namespace {

std::string with_length(std::string_view json, std::string_view data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(json.size() >> (8 * i) & 0xff);
  return bytes.append(json).append(data);
}

void read(Bytes input, const ScratchFolder& folder) {
  const bool assemble = input.byte() % 2 == 1;
  const std::string_view json = assemble ? input.until('\0') : "";
  const std::string content = assemble ? with_length(json, input.rest()) : std::string(input.rest());
  const std::string path = folder.write("file.safetensors", content);

  checkpoint::SafetensorsFile file;
  if (refusal([&] { file = checkpoint::read_safetensors(path); })) return;
  size_t bytes = 0;
  checkpoint::NamedTensors tensors;
  for (const auto& [name, tensor] : file.tensors) {
    bytes += tensor.nbytes();
    tensors.emplace_back(name, tensor);
  }
  require(bytes <= content.size(), "tensors larger than the file");
  // What was read is written, and reads back the same.
  const std::string copy = folder.path() + "/copy.safetensors";
  checkpoint::write_safetensors(copy, tensors, file.metadata);
  const checkpoint::SafetensorsFile again = checkpoint::read_safetensors(copy);
  require(again.metadata == file.metadata, "other metadata after a round trip");
  require(again.tensors.size() == file.tensors.size(), "other tensors after a round trip");
  for (const auto& [name, tensor] : file.tensors) {
    const at::Tensor& other = again.tensors.at(name);
    const bool same =
        other.sizes() == tensor.sizes() && other.scalar_type() == tensor.scalar_type() &&
        (tensor.nbytes() == 0 || std::memcmp(other.data_ptr(), tensor.data_ptr(), tensor.nbytes()) == 0);
    require(same, "another tensor after a round trip");
  }
}

}  // namespace

std::vector<std::string> seeds() {
  const ScratchFolder folder;
  const std::string path = folder.path() + "/seed.safetensors";
  const at::Tensor matrix = at::arange(12, at::kFloat).view({3, 4});
  checkpoint::write_safetensors(path,
                                {{"model.embed_tokens.weight", matrix},
                                 {"model.norm.weight", matrix[0].to(at::kBFloat16)},
                                 {"step", at::scalar_tensor(7, at::kLong)},
                                 {"empty", at::empty({2, 0, 3}, at::kByte)}},
                                {{"format", "pt"}, {"program", "asplash \xc3\xa9 \"quoted\""}});
  const std::string file = read_file(path);
  const size_t header = 8 + static_cast<size_t>(static_cast<unsigned char>(file[0])) +
                        256 * static_cast<size_t>(static_cast<unsigned char>(file[1]));
  return {'\0' + file, '\1' + file.substr(8, header - 8) + '\0' + file.substr(header),
          std::string("\1{}\0", 4)};
}

}  // namespace asplash::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const asplash::fuzz::ScratchFolder folder;
  asplash::fuzz::read({data, size}, folder);
  return 0;
}
