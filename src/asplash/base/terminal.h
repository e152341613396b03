#pragma once

#include <string>

/// The terminal behind stderr, shared by log lines and one status line (the progress line) that always stands
/// below them. All functions may be called from any thread.
namespace asplash::terminal {

/// stderr is a terminal that can redraw a line (not TERM=dumb).
bool is_interactive();
/// is_interactive() and the user did not ask for plain text (https://no-color.org: NO_COLOR set, not empty).
bool has_colours();
/// Columns of the terminal; 80 where it does not say.
int width();

/// Writes `line` and a line break to stderr, above the status line.
void write_line(const std::string& line);
/// Draws `text` as the status line, cut to the terminal's width. Call only where is_interactive().
void set_status(const std::string& text);
/// Removes the status line.
void clear_status();

}  // namespace asplash::terminal
