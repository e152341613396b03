#pragma once

#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

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

/// The rows that a terminal of endless width shows after `written`. Knows line breaks, "\r", "\x1b[K" and
/// colours, which is all that asplash uses; throws std::runtime_error for another control character.
inline std::vector<std::string> screen_of(const std::string& written) {
  std::vector<std::string> rows(1);
  size_t column = 0;
  for (size_t i = 0; i < written.size(); ++i) {
    const char c = written[i];
    if (c == '\n') {
      rows.emplace_back();
      column = 0;
    } else if (c == '\r') {
      column = 0;
    } else if (c == '\x1b') {
      const size_t end = written.find_first_of("Km", i);
      if (end == std::string::npos || written.compare(i, 2, "\x1b[") != 0)
        throw std::runtime_error("escape code");
      if (written[end] == 'K') rows.back().resize(column);
      i = end;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      throw std::runtime_error("control character");
    } else {
      std::string& row = rows.back();
      row.resize(std::max(row.size(), column + 1));
      row[column++] = c;
    }
  }
  return rows;
}

}  // namespace asplash::testing
