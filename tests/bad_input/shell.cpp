#include "shell.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "temporary_folder.h"

namespace asplash::bad_input {
namespace {

/// In the child, between fork and exec: only calls that are allowed there.
void redirect(const char* path, int flags, int descriptor) {
  const int fd = ::open(path, flags, 0600);
  if (fd < 0 || ::dup2(fd, descriptor) < 0) ::_exit(126);
}

}  // namespace

Outcome run_shell(const std::string& script, const std::string& folder, int seconds) {
  const TemporaryFolder streams;
  const std::string out = streams.path() + "/out";
  const std::string err = streams.path() + "/err";
  const std::string limit = std::to_string(seconds);
  const std::string whole = "ASPLASH_BIN_DIR='" ASPLASH_BIN_DIR
                            "' ASPLASH_BAD_INPUT_TOOL='" ASPLASH_BAD_INPUT_TOOL
                            "' ASPLASH_SAMPLES='" ASPLASH_SOURCE_DIR "/data/samples'\n. '" ASPLASH_SOURCE_DIR
                            "/tests/bad_input/prelude.sh'\n" +
                            script;
  const std::array<const char*, 7> argv{"timeout", "--signal=KILL", limit.c_str(), "/bin/sh",
                                        "-euc",    whole.c_str(),   nullptr};
  const pid_t child = ::fork();
  if (child < 0) fail("cannot fork: ", std::strerror(errno));
  if (child == 0) {
    redirect("/dev/null", O_RDONLY, 0);
    redirect(out.c_str(), O_WRONLY | O_CREAT, 1);
    redirect(err.c_str(), O_WRONLY | O_CREAT, 2);
    if (::chdir(folder.c_str()) == 0) ::execvp(argv[0], const_cast<char**>(argv.data()));
    ::_exit(126);
  }
  int status = 0;
  rusage usage{};
  while (::wait4(child, &status, 0, &usage) < 0) {
    if (errno != EINTR) fail("cannot wait for ", script, ": ", std::strerror(errno));
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(out), read_file(err),
          static_cast<double>(usage.ru_maxrss) / 1024};
}

}  // namespace asplash::bad_input
