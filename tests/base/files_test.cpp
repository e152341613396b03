#include "asplash/base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <thread>
#include <utility>

#include "asplash/base/interrupt.h"
#include "base/folder_test.h"

namespace asplash {
namespace {

using testing::error_of;

class Files : public testing::FolderTest {};

TEST_F(Files, WriteAndRead) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{65536}, size_t{3000001}}) {
    std::string content(size, '\0');
    for (size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 31);
    write_file_atomically(path("a"), content);
    EXPECT_EQ(read_file(path("a")), content);
    EXPECT_EQ(files(), 1u);
  }
}

TEST_F(Files, ReadsPipesToTheEnd) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  const std::string content(300000, 'x');
  std::thread writer([&] {
    const int fd = ::open(path("pipe").c_str(), O_WRONLY);
    EXPECT_EQ(::write(fd, content.data(), content.size()), static_cast<ssize_t>(content.size()));
    ::close(fd);
  });
  EXPECT_EQ(read_file(path("pipe")), content);
  writer.join();
}

TEST_F(Files, WhatHasNoEndIsRefused) {
  EXPECT_EQ(testing::error_of([] { read_file("/dev/zero", 1 << 20); }),
            "cannot read /dev/zero: it is longer than 1.0 MiB");
  EXPECT_EQ(testing::error_of([] { hash_file("/dev/zero"); }), "cannot read /dev/zero: not a regular file");
  write_file_atomically(path("a"), "12345");
  EXPECT_EQ(read_file(path("a"), 5), "12345");
  EXPECT_NE(testing::error_of([this] { read_file(path("a"), 4); }), "");
}

TEST_F(Files, NamedPipesWithoutAWriterAreNotWaitedFor) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(testing::error_of([this] { MappedFile(path("pipe")); }),
            "cannot map " + path("pipe") + ": not a regular file");
  EXPECT_EQ(testing::error_of([this] { hash_file(path("pipe")); }),
            "cannot read " + path("pipe") + ": not a regular file");
}

TEST_F(Files, ErrorsNamePathAndReason) {
  EXPECT_EQ(error_of([&] { read_file(path("no")); }),
            "cannot read " + path("no") + ": No such file or directory");
  EXPECT_EQ(error_of([&] { read_file(folder_.string()); }),
            "cannot read " + folder_.string() + ": Is a directory");
  EXPECT_EQ(error_of([&] { MappedFile{path("no")}; }),
            "cannot read " + path("no") + ": No such file or directory");
  EXPECT_EQ(error_of([&] { MappedFile{folder_.string()}; }),
            "cannot map " + folder_.string() + ": not a regular file");
  EXPECT_EQ(error_of([&] { hash_file(folder_.string()); }),
            "cannot read " + folder_.string() + ": Is a directory");
  const std::string orphan = path("no/a");
  EXPECT_EQ(error_of([&] { write_file_atomically(orphan, "x"); }),
            "cannot write " + orphan + ": No such file or directory");
  std::filesystem::create_directory(path("folder"));
  EXPECT_EQ(error_of([&] { write_file_atomically(path("folder"), "x"); }),
            "cannot write " + path("folder") + ": Is a directory");
  EXPECT_EQ(files(), 1u) << "the temporary file was left behind";
}

TEST_F(Files, FullDiskIsNamed) {
  // /dev/full takes any open and refuses every write.
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  const std::string target = path("a");
  const std::string temporary = str(target, ".tmp-", ::getpid());
  write_file_atomically(target, "old");
  std::filesystem::create_symlink("/dev/full", temporary);
  EXPECT_EQ(error_of([&] { write_file_atomically(target, "new"); }),
            "cannot write " + target + ": No space left on device (free some, or write elsewhere)");
  EXPECT_EQ(read_file(target), "old");
  EXPECT_EQ(files(), 1u);
}

TEST_F(Files, ReadOnlyFolderIsNamed) {
  if (::geteuid() == 0) {
    // Root may write anywhere but into what the kernel keeps.
    EXPECT_NE(
        error_of([] { write_file_atomically("/proc/asplash", "x"); }).find("cannot write /proc/asplash: "),
        std::string::npos);
    return;
  }
  std::filesystem::permissions(folder_,
                               std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  EXPECT_EQ(error_of([&] { write_file_atomically(path("a"), "x"); }),
            "cannot write " + path("a") + ": Permission denied");
  std::filesystem::permissions(folder_, std::filesystem::perms::owner_all);
}

// In a child process: the limit cannot be taken back.
TEST_F(Files, FileSizeLimitKeepsTheOldContent) {
  const std::string target = path("a");
  write_file_atomically(target, "old");
  const pid_t child = ::fork();
  if (child == 0) {
    const InterruptGuard guard;
    const rlimit limit{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string message = error_of([&] { write_file_atomically(target, std::string(5000, 'x')); });
    ::_exit(message == "cannot write " + target + ": File too large (see ulimit -f)" ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(read_file(target), "old");
  EXPECT_EQ(files(), 1u);
}

// A reader at any moment sees one of the versions as a whole.
TEST_F(Files, ReplacementIsAtomic) {
  const std::string a(100000, 'a');
  const std::string b(200000, 'b');
  write_file_atomically(path("f"), a);
  std::thread writer([&] {
    for (int i = 0; i < 30; ++i) write_file_atomically(path("f"), i % 2 == 0 ? b : a);
  });
  for (int i = 0; i < 300; ++i) {
    const std::string seen = read_file(path("f"));
    ASSERT_TRUE(seen == a || seen == b) << seen.size();
  }
  writer.join();
}

TEST_F(Files, MapsWholeFiles) {
  write_file_atomically(path("a"), "hello");
  write_file_atomically(path("empty"), "");
  MappedFile map(path("a"));
  ASSERT_EQ(map.size(), 5u);
  EXPECT_EQ(std::memcmp(map.data(), "hello", 5), 0);
  const std::byte* address = map.data();
  MappedFile moved(std::move(map));
  EXPECT_EQ(moved.data(), address);
  MappedFile assigned(path("empty"));
  EXPECT_EQ(assigned.size(), 0u);
  assigned = std::move(moved);
  EXPECT_EQ(assigned.data(), address);
  EXPECT_EQ(assigned.size(), 5u);
  assigned = MappedFile();
  EXPECT_EQ(assigned.size(), 0u);
  EXPECT_EQ(assigned.data(), nullptr);
}

TEST_F(Files, HashesAreXxh3) {
  // Known values of the XXH3 specification's empty input.
  EXPECT_EQ(hash64("", 0), 0x2d06800538d394c2u);
  EXPECT_EQ(hash_bytes("", 0), "99aa06d3014798d86001c324468d497f");
  std::string content(3 << 20, 'q');
  content[12345] = 'r';
  write_file_atomically(path("a"), content);
  const std::string hash = hash_file(path("a"));
  EXPECT_EQ(hash, hash_bytes(content.data(), content.size()));
  content[12345] ^= 1;
  EXPECT_NE(hash, hash_bytes(content.data(), content.size()));
}

}  // namespace
}  // namespace asplash
