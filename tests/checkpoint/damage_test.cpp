// A checkpoint with one flipped bit anywhere is refused, and the file is named.
#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "asplash/checkpoint/finite.h"
#include "checkpoint/fixtures.h"

namespace asplash::checkpoint {
namespace {

namespace fs = std::filesystem;

std::string error_of(const std::string& path) {
  try {
    const Reader reader(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void overwrite(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

/// In place: replacing whole files thousands of times makes some file systems wait for the disk.
void put_byte(const std::string& path, size_t at, char byte) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(at));
  file.put(byte);
}

class FlippedBit : public ::testing::TestWithParam<const char*> {
 protected:
  FlippedBit() { save(folder_ / "a", some_contents(folder_, 1)); }
  TemporaryFolder folder_;
};

TEST_P(FlippedBit, IsRefusedByName) {
  const std::string name = GetParam(), path = folder_ / "a/" + name;
  const std::string whole = read_file(path);
  ASSERT_FALSE(whole.empty());
  // Of the manifest every bit, of the others one of each byte: a checksum cares not which.
  const int bits = name == "manifest.json" ? 8 : 1;
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int i = 0; i < bits; ++i) {
      put_byte(path, at, static_cast<char>(whole[at] ^ (1 << (at + static_cast<size_t>(i)) % 8)));
      const std::string error = error_of(folder_ / "a");
      ASSERT_NE(error.find(name), std::string::npos)
          << "byte " << at << " of " << name << ", bit " << (at + static_cast<size_t>(i)) % 8 << ": '"
          << error << "'";
    }
    put_byte(path, at, whole[at]);
  }
  EXPECT_EQ(error_of(folder_ / "a"), "");
}

INSTANTIATE_TEST_SUITE_P(EveryFile, FlippedBit,
                         ::testing::Values("model.safetensors", "optimizer.safetensors", "trainer_state.json",
                                           "config.yaml", "config.json", "tokenizer.model", "manifest.json"),
                         [](const auto& file) {
                           std::string name = file.param;
                           for (char& c : name) {
                             if (c == '.') c = '_';
                           }
                           return name;
                         });

TEST(Damage, EveryFileOfACheckpointIsAmongTheFlipped) {
  const TemporaryFolder folder;
  save(folder / "a", some_contents(folder, 1));
  const auto count = std::distance(fs::directory_iterator(folder / "a"), fs::directory_iterator());
  EXPECT_EQ(count, 7) << "a file was added: add it to FlippedBit";
}

TEST(Damage, ManifestsOfTheFirstVersionStillOpen) {
  const TemporaryFolder folder;
  save(folder / "a", some_contents(folder, 1));
  std::string manifest = read_file(folder / "a/manifest.json");
  const size_t version = manifest.find("\"version\": 2");
  ASSERT_NE(version, std::string::npos);
  manifest[version + 11] = '1';
  const size_t sum = manifest.find(",\n  \"xxh3_128_of_files\"");
  manifest = manifest.substr(0, sum) + "\n}\n";
  overwrite(folder / "a/manifest.json", manifest);
  EXPECT_EQ(error_of(folder / "a"), "");
}

TEST(Damage, WhatIsNotFiniteIsNeverSaved) {
  const TemporaryFolder folder;
  save(folder / "a", some_contents(folder, 1));
  for (const bool in_model : {true, false}) {
    Contents contents = some_contents(folder, 2);
    auto& tensors = in_model ? contents.model : contents.optimizer;
    const at::Tensor bad = at::zeros({3, 5});
    bad.view({-1})[7] = std::numeric_limits<float>::quiet_NaN();
    bad.view({-1})[9] = std::numeric_limits<float>::infinity();
    tensors.emplace_back("the.bad.one", bad);
    try {
      save(folder / "a", contents);
      ADD_FAILURE() << "saved";
    } catch (const NotFiniteError& error) {
      EXPECT_NE(std::string(error.what()).find("the.bad.one holds 2 values of 15"), std::string::npos)
          << error.what();
      EXPECT_NE(std::string(error.what()).find("the first at 7"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(Reader(folder / "a").state().step, 1);
  EXPECT_FALSE(fs::exists(folder / "a.tmp"));
}

}  // namespace
}  // namespace asplash::checkpoint
