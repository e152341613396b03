#include "command.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "temporary_folder.h"

extern char** environ;

namespace asplash::programs {
namespace {

namespace fs = std::filesystem;

class FileActions {
 public:
  FileActions() { posix_spawn_file_actions_init(&actions_); }
  ~FileActions() { posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;

  void open(int descriptor, const std::string& path, int flags) {
    posix_spawn_file_actions_addopen(&actions_, descriptor, path.c_str(), flags, 0600);
  }
  void change_folder(const std::string& path) {
    posix_spawn_file_actions_addchdir_np(&actions_, path.c_str());
  }
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
};

}  // namespace

Outcome run(const std::string& program, const std::vector<std::string>& arguments, const std::string& folder,
            const std::string& input) {
  const TemporaryFolder streams;
  std::ofstream(streams.path() + "/in", std::ios::binary) << input;
  const std::string path = program.front() == '/' ? program : std::string(ASPLASH_BIN_DIR) + "/" + program;
  std::vector<std::string> words = {path};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  FileActions actions;
  actions.change_folder(folder);
  actions.open(0, streams.path() + "/in", O_RDONLY);
  actions.open(1, streams.path() + "/out", O_WRONLY | O_CREAT);
  actions.open(2, streams.path() + "/err", O_WRONLY | O_CREAT);
  pid_t child = 0;
  const int failed = posix_spawn(&child, path.c_str(), actions.get(), nullptr, argv.data(), environ);
  if (failed != 0) fail("cannot start ", path, ": ", std::strerror(failed));
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          read_file(streams.path() + "/out"), read_file(streams.path() + "/err")};
}

}  // namespace asplash::programs
