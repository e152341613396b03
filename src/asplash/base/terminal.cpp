#include "asplash/base/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace asplash::terminal {
namespace {

constexpr const char* kEraseLine = "\r\x1b[K";

struct Screen {
  std::mutex mutex;
  std::string status;
};

// One terminal per process, hence one state.
Screen& screen() {
  static Screen instance;
  return instance;
}

void put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

// The longest prefix of at most `columns` code points.
std::string cut(const std::string& text, int columns) {
  size_t end = 0;
  for (int seen = 0; end < text.size(); ++end) {
    const bool starts_character = (static_cast<unsigned char>(text[end]) & 0xc0) != 0x80;
    if (starts_character && seen++ == columns) break;
  }
  return text.substr(0, end);
}

}  // namespace

bool is_interactive() {
  const char* term = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && !(term != nullptr && std::string(term) == "dumb");
}

bool has_colours() { return is_interactive() && !is_set("NO_COLOR"); }

int width() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

void write_line(const std::string& line) {
  Screen& s = screen();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (s.status.empty()) {
    put(line + "\n");
  } else {
    put(kEraseLine + line + "\n" + cut(s.status, width() - 1));
  }
}

void set_status(const std::string& text) {
  Screen& s = screen();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.status = text;
  // A full last column would make some terminals wrap, and the next redraw miss its line.
  put(kEraseLine + cut(text, width() - 1));
}

void clear_status() {
  Screen& s = screen();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (s.status.empty()) return;
  s.status.clear();
  put(kEraseLine);
}

}  // namespace asplash::terminal
