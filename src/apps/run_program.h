#pragma once

#include <CLI/CLI.hpp>
#include <exception>
#include <functional>
#include <iostream>
#include <string>

#include "asplash/base/error.h"
#include "asplash/base/version.h"

namespace asplash {

/// Parses the command line and runs the program. Exit status: what `run` returns; 1 and "error: ..." on
/// stderr for what it throws; 2 for a command line that is not understood.
inline int run_program(CLI::App& app, int argc, char** argv, const std::function<int()>& run) {
  app.set_version_flag("--version", version() + " (" + git_commit() + ")");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    std::cerr << "error: " << error.what() << " (see " << app.get_name() << " --help)" << std::endl;
    return 2;
  }
  try {
    return run();
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << std::endl;
  } catch (const std::exception& error) {
    // libtorch appends its call stack; the first line says what happened.
    const std::string message = error.what();
    std::cerr << "error: " << message.substr(0, message.find('\n')) << std::endl;
  }
  return 1;
}

}  // namespace asplash
