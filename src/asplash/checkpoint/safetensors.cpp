#include "asplash/checkpoint/safetensors.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <set>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/output_file.h"
#include "asplash/checkpoint/safetensors_header.h"

namespace asplash::checkpoint {
namespace {

struct DtypeName {
  const char* name;
  at::ScalarType type;
};

constexpr DtypeName kDtypes[] = {
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U64", at::kUInt64},
    {"U32", at::kUInt32},
    {"U16", at::kUInt16},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
};

const char* name_of(const std::string& path, const std::string& tensor, at::ScalarType type) {
  for (const DtypeName& dtype : kDtypes) {
    if (dtype.type == type) return dtype.name;
  }
  fail(path, ": tensor ", tensor, ": safetensors has no type for ", c10::toString(type));
}

at::ScalarType type_of(const std::string& name) {
  for (const DtypeName& dtype : kDtypes) {
    if (name == dtype.name) return dtype.type;
  }
  fail("unknown dtype ", name);  // parse_header() let only known names through
}

/// Leaves out tensors that are the same memory as an earlier one (tied weights), as Hugging Face does: the
/// metadata then says which name stands for which.
NamedTensors without_shared(const NamedTensors& tensors, std::map<std::string, std::string>& metadata) {
  NamedTensors kept;
  std::set<std::string> names;
  for (const auto& [name, tensor] : tensors) {
    if (!names.insert(name).second) fail("safetensors: two tensors are named ", name);
    const auto same = std::find_if(kept.begin(), kept.end(), [&tensor = tensor](const auto& other) {
      return tensor.numel() > 0 && other.second.data_ptr() == tensor.data_ptr() &&
             other.second.sizes() == tensor.sizes() && other.second.strides() == tensor.strides() &&
             other.second.scalar_type() == tensor.scalar_type();
    });
    if (same == kept.end()) {
      kept.emplace_back(name, tensor);
    } else {
      metadata[name] = same->first;
    }
  }
  return kept;
}

/// Header and data, synced and closed. Errors name `path`.
void write_to(OutputFile& file, const std::string& path, const NamedTensors& tensors,
              const std::map<std::string, std::string>& metadata) {
  Header header;
  header.metadata = metadata;
  NamedTensors kept = without_shared(tensors, header.metadata);
  // Wide types first, so that every tensor starts at a multiple of its element size.
  std::stable_sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) {
    return a.second.element_size() > b.second.element_size();
  });
  uint64_t offset = 0;
  for (const auto& [name, tensor] : kept) {
    const uint64_t bytes = static_cast<uint64_t>(tensor.numel()) * tensor.element_size();
    header.tensors.push_back(
        {name, name_of(path, name, tensor.scalar_type()), tensor.sizes().vec(), offset, offset + bytes});
    offset += bytes;
  }

  const std::string text = format_header(header);
  file.write(text.data(), text.size());
  for (const auto& [name, tensor] : kept) {
    const at::Tensor host = tensor.detach().cpu().contiguous();
    file.write(host.data_ptr(), host.nbytes());
  }
  file.sync_and_close();
}

}  // namespace

void write_safetensors(const std::string& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata) {
  OutputFile file(path);
  write_to(file, path, tensors, metadata);
  file.keep();
}

void write_safetensors_atomically(const std::string& path, const NamedTensors& tensors,
                                  const std::map<std::string, std::string>& metadata) {
  OutputFile file(str(path, ".tmp-", ::getpid()), path);
  write_to(file, path, tensors, metadata);
  file.rename_to(path);
  fsync_path(std::filesystem::absolute(path).parent_path().string());
}

SafetensorsFile read_safetensors(const std::string& path) {
  const MappedFile file(path);
  const Header header = parse_header(path, file.data(), file.size());
  SafetensorsFile result;
  result.metadata = header.metadata;
  const std::byte* data = file.data() + header.bytes;
  for (const TensorEntry& entry : header.tensors) {
    at::Tensor tensor = at::empty(entry.shape, at::TensorOptions(type_of(entry.dtype)));
    if (entry.end > entry.begin) std::memcpy(tensor.data_ptr(), data + entry.begin, entry.end - entry.begin);
    result.tensors.emplace(entry.name, std::move(tensor));
  }
  return result;
}

}  // namespace asplash::checkpoint
