#include "asplash/checkpoint/safetensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "temporary_folder.h"

namespace asplash::checkpoint {
namespace {

const at::ScalarType kAllTypes[] = {at::kDouble, at::kFloat,         at::kHalf,       at::kBFloat16,
                                    at::kLong,   at::kInt,           at::kShort,      at::kChar,
                                    at::kByte,   at::kBool,          at::kUInt16,     at::kUInt32,
                                    at::kUInt64, at::kFloat8_e4m3fn, at::kFloat8_e5m2};

void write(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
}

std::string with_length(const std::string& json, const std::string& data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(json.size() >> (8 * i) & 0xff);
  return bytes + json + data;
}

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.numel() == 0 ||
          std::memcmp(a.contiguous().data_ptr(), b.contiguous().data_ptr(), a.nbytes()) == 0);
}

TEST(Safetensors, RoundTripsEveryTypeAndShape) {
  const TemporaryFolder folder;
  const std::vector<std::vector<int64_t>> shapes = {{}, {1}, {7}, {3, 5}, {2, 0, 4}, {2, 3, 1, 5}};
  NamedTensors tensors;
  for (const at::ScalarType type : kAllTypes) {
    for (const auto& shape : shapes) {
      const at::Tensor values = at::randint(0, 2, shape, at::kFloat).to(type);
      tensors.emplace_back(c10::str(c10::toString(type), shape), values);
    }
  }
  const std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                       {"quote\"d", "line\nbreak \xc3\xa9"}};
  write_safetensors(folder / "a.safetensors", tensors, metadata);
  const SafetensorsFile file = read_safetensors(folder / "a.safetensors");
  EXPECT_EQ(file.metadata, metadata);
  ASSERT_EQ(file.tensors.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bytes(file.tensors.at(name), tensor)) << name;
}

TEST(Safetensors, WritesViewsAsTheyRead) {
  const TemporaryFolder folder;
  const at::Tensor matrix = at::randn({4, 6});
  write_safetensors(folder / "a", {{"t", matrix.t()}, {"column", matrix.select(1, 2)}}, {});
  const auto file = read_safetensors(folder / "a");
  EXPECT_TRUE(at::equal(file.tensors.at("t"), matrix.t()));
  EXPECT_TRUE(at::equal(file.tensors.at("column"), matrix.select(1, 2)));
}

TEST(Safetensors, ReplacesAFileWholeOrNotAtAll) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  write_safetensors_atomically(path, {{"x", at::ones({3})}}, {{"k", "old"}});
  const at::Tensor unknown = at::ones({2}, at::kComplexFloat);
  EXPECT_THROW(write_safetensors_atomically(path, {{"x", at::zeros({3})}, {"y", unknown}}, {}), Error);
  EXPECT_EQ(read_safetensors(path).metadata.at("k"), "old");
  EXPECT_TRUE(at::equal(read_safetensors(path).tensors.at("x"), at::ones({3})));
  write_safetensors_atomically(path, {{"x", at::zeros({3})}}, {{"k", "new"}});
  EXPECT_EQ(read_safetensors(path).metadata.at("k"), "new");
  const std::filesystem::directory_iterator files(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST(Safetensors, StoresSharedTensorsOnce) {
  const TemporaryFolder folder;
  const at::Tensor weight = at::randn({100, 10});
  write_safetensors(folder / "a", {{"embed", weight}, {"head", weight}, {"part", weight.narrow(0, 0, 5)}},
                    {});
  const auto file = read_safetensors(folder / "a");
  EXPECT_EQ(file.tensors.size(), 2u);
  EXPECT_EQ(file.metadata.at("head"), "embed");
  EXPECT_THROW(write_safetensors(folder / "b", {{"a", weight}, {"a", at::zeros({2})}}, {}), Error);
}

TEST(Safetensors, DataIsAligned) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {{"byte", at::ones({3}, at::kByte)}, {"wide", at::ones({2}, at::kDouble)}},
                    {});
  const std::string content = read_file(folder / "a");
  const auto length = static_cast<unsigned char>(content[0]);
  EXPECT_EQ(length % 8, 0);
  EXPECT_EQ(content.size(), 8u + length + 16 + 3);
  EXPECT_TRUE(at::equal(read_safetensors(folder / "a").tensors.at("byte"), at::ones({3}, at::kByte)));
}

TEST(Safetensors, NamesWhatCannotBeWritten) {
  const TemporaryFolder folder;
  EXPECT_THROW(write_safetensors(folder / "missing/a", {}, {}), Error);
  EXPECT_THROW(write_safetensors(folder / "a", {{"c", at::zeros({2}, at::kComplexFloat)}}, {}), Error);
  EXPECT_THROW(read_safetensors(folder / "nothing"), Error);
}

struct Malformed {
  const char* what;
  std::string json;
  size_t data_bytes;
};

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"("dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets;
}

std::vector<Malformed> malformed_headers() {
  const std::string good = "{" + entry("F32", "[2]", "[0,8]") + "}";
  return {
      {"not json", "{\"a\":", 8},
      {"not an object", "[1,2]", 0},
      {"leading space", " {\"a\":" + good + "}", 8},
      {"empty", "", 0},
      {"trailing text", "{\"a\":" + good + "}x", 8},
      {"invalid utf-8", "{\"\xff\":" + good + "}", 8},
      {"entry is a list", "{\"a\":[]}", 0},
      {"entry is a number", "{\"a\":3}", 0},
      {"no dtype", R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8},
      {"no shape", R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8},
      {"no offsets", R"({"a":{"dtype":"F32","shape":[2]}})", 8},
      {"surplus key", R"({"a":{"x":1,)" + entry("F32", "[2]", "[0,8]") + "}}", 8},
      {"unknown dtype", "{\"a\":{" + entry("F33", "[2]", "[0,8]") + "}}", 8},
      {"dtype a number", R"({"a":{"dtype":3,"shape":[2],"data_offsets":[0,8]}})", 8},
      {"shape a number", "{\"a\":{" + entry("F32", "2", "[0,8]") + "}}", 8},
      {"negative size", "{\"a\":{" + entry("F32", "[-2]", "[0,8]") + "}}", 8},
      {"fractional size", "{\"a\":{" + entry("F32", "[2.0]", "[0,8]") + "}}", 8},
      {"size as text", "{\"a\":{" + entry("F32", "[\"2\"]", "[0,8]") + "}}", 8},
      {"size over 64 bits", "{\"a\":{" + entry("F32", "[99999999999999999999]", "[0,8]") + "}}", 8},
      {"size over 63 bits", "{\"a\":{" + entry("F32", "[18446744073709551615]", "[0,8]") + "}}", 8},
      {"product overflows", "{\"a\":{" + entry("F32", "[4294967296,4294967296]", "[0,0]") + "}}", 0},
      {"product overflows to the right size",
       "{\"a\":{" + entry("F32", "[4611686018427387905,2,2]", "[0,16]") + "}}", 16},
      {"overflow beside zero", "{\"a\":{" + entry("F32", "[4294967296,4294967296,0]", "[0,0]") + "}}", 0},
      {"offsets of three", "{\"a\":{" + entry("F32", "[2]", "[0,8,8]") + "}}", 8},
      {"offsets of one", "{\"a\":{" + entry("F32", "[2]", "[8]") + "}}", 8},
      {"negative offset", "{\"a\":{" + entry("F32", "[2]", "[-8,0]") + "}}", 8},
      {"begin after end", "{\"a\":{" + entry("F32", "[2]", "[8,0]") + "}}", 8},
      {"end outside", "{\"a\":{" + entry("F32", "[2]", "[0,8]") + "}}", 7},
      {"far outside", "{\"a\":{" + entry("F32", "[2]", "[9223372036854775800,9223372036854775807]") + "}}",
       8},
      {"too few bytes", "{\"a\":{" + entry("F32", "[2]", "[0,4]") + "}}", 4},
      {"too many bytes", "{\"a\":{" + entry("F32", "[2]", "[0,16]") + "}}", 16},
      {"size of another dtype", "{\"a\":{" + entry("F64", "[2]", "[0,8]") + "}}", 8},
      {"gap at the start", "{\"a\":{" + entry("F32", "[2]", "[4,12]") + "}}", 12},
      {"gap between",
       "{\"a\":{" + entry("F32", "[1]", "[0,4]") + "},\"b\":{" + entry("F32", "[1]", "[8,12]") + "}}", 12},
      {"overlap",
       "{\"a\":{" + entry("F32", "[2]", "[0,8]") + "},\"b\":{" + entry("F32", "[2]", "[4,12]") + "}}", 12},
      {"same bytes twice",
       "{\"a\":{" + entry("F32", "[2]", "[0,8]") + "},\"b\":{" + entry("F32", "[2]", "[0,8]") + "}}", 8},
      {"trailing bytes", "{\"a\":{" + entry("F32", "[2]", "[0,8]") + "}}", 9},
      {"data without tensors", "{}", 4},
      {"empty tensor inside another",
       "{\"a\":{" + entry("F32", "[2]", "[0,8]") + "},\"b\":{" + entry("F32", "[0]", "[4,4]") + "}}", 8},
      {"name given twice", "{\"a\":" + good + ",\"a\":" + good + "}", 8},
      {"key given twice", "{\"a\":{" + entry("F32", "[2]", "[0,8]") + ",\"dtype\":\"F32\"}}", 8},
      {"metadata a list", "{\"__metadata__\":[],\"a\":" + good + "}", 8},
      {"metadata of numbers", "{\"__metadata__\":{\"x\":1},\"a\":" + good + "}", 8},
      {"deep nesting", "{\"a\":" + std::string(200000, '[') + std::string(200000, ']') + "}", 0},
      {"shape of 65 dimensions",
       "{\"a\":{" +
           entry(
               "F32",
               "[" +
                   [] {
                     std::string s = "1";
                     for (int i = 0; i < 64; ++i) s += ",1";
                     return s;
                   }() +
                   "]",
               "[0,4]") +
           "}}",
       4},
  };
}

TEST(Safetensors, RefusesMalformedHeadersByPath) {
  const TemporaryFolder folder;
  const std::string path = folder / "bad.safetensors";
  for (const Malformed& bad : malformed_headers()) {
    write(path, with_length(bad.json, std::string(bad.data_bytes, '\1')));
    try {
      read_safetensors(path);
      ADD_FAILURE() << "accepted: " << bad.what;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << bad.what << ": " << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
}

TEST(Safetensors, RefusesBadLengths) {
  const TemporaryFolder folder;
  const std::string path = folder / "bad.safetensors";
  for (const std::string& content : {std::string(), std::string("1234567"), std::string(8, '\xff') + "{}",
                                     std::string("\x03\0\0\0\0\0\0\0{}", 10),
                                     std::string("\0\0\0\0\0\0\0\x80{}", 10), std::string(8, '\0')}) {
    write(path, content);
    EXPECT_THROW(read_safetensors(path), Error) << content.size();
  }
}

TEST(Safetensors, SurvivesDamageAnywhere) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  write_safetensors(path, {{"weight", at::randn({3, 4})}, {"bias", at::ones({4}, at::kHalf)}},
                    {{"format", "pt"}});
  const std::string whole = read_file(path);
  for (size_t size = 0; size < whole.size(); ++size) {
    write(path, whole.substr(0, size));
    EXPECT_THROW(read_safetensors(path), Error) << size;
  }
  std::mt19937 random(1);
  for (int trial = 0; trial < 1000; ++trial) {
    std::string damaged = whole;
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips) {
      damaged[random() % (whole.size() - 56)] = static_cast<char>(random());
    }
    write(path, damaged);
    try {
      read_safetensors(path);  // damage inside a name or the data cannot be seen here
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace asplash::checkpoint
