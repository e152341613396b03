#pragma once

#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

namespace asplash::testing {

/// Runs `action` in a child process whose stderr is a terminal of `columns` columns, and returns what it
/// wrote.
template <class Action>
std::string on_terminal(unsigned short columns, Action action) {
  int screen = -1;
  const winsize size{24, columns, 0, 0};
  const pid_t child = ::forkpty(&screen, nullptr, nullptr, &size);
  if (child == 0) {
    ::setenv("TERM", "xterm", 1);
    action();
    ::_exit(0);
  }
  std::string written;
  std::array<char, 4096> buffer{};
  while (true) {
    const ssize_t count = ::read(screen, buffer.data(), buffer.size());
    if (count <= 0) break;  // the child's end shows as an error here
    written.append(buffer.data(), static_cast<size_t>(count));
  }
  ::close(screen);
  ::waitpid(child, nullptr, 0);
  return written;
}

}  // namespace asplash::testing
