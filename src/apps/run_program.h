#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <new>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/interrupt.h"
#include "asplash/base/text.h"
#include "asplash/base/version.h"
#include "asplash/config/config.h"

namespace asplash {

/// "error: ..." on stderr: one line, whatever file names and arguments the message repeats.
inline void print_error(const std::string& message) {
  constexpr size_t kLongest = 1000;
  std::cerr << "error: " << shown(message, kLongest) << std::endl;
}

/// A configuration's problems: one line each.
inline void print_error(const config::ConfigError& problems) {
  std::istringstream lines(problems.what());
  const char* prefix = "error: ";
  for (std::string line; std::getline(lines, line); prefix = "")
    std::cerr << prefix << shown(line, 1000) << std::endl;
}

/// For options of unsigned numbers: CLI11 takes -1, and all that is beyond 64 bits, for 2^64 - 1.
inline CLI::Validator not_negative() {
  return {[](std::string& text) -> std::string {
            if (text.find('-') != std::string::npos) return text + " is below 0";
            uint64_t value = 0;
            const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
            return parsed.ec == std::errc::result_out_of_range ? text + " is above 2^64 - 1" : "";
          },
          ""};
}

/// For options of whole numbers: CLI11's own PositiveNumber names limits of 309 digits.
inline CLI::Validator at_least(int64_t least) {
  return {[least](std::string& text) -> std::string {
            int64_t value = 0;
            const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
            const bool whole = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
            if (whole && value >= least) return "";
            return "'" + text + "': must be a whole number, at least " + std::to_string(least);
          },
          ""};
}

/// For options that are one of some words; as an option's transform(): the word becomes its number.
template <typename Choice>
CLI::Validator one_of(const std::map<std::string, Choice>& words) {
  return {[words](std::string& text) -> std::string {
            std::vector<std::string> valid;
            for (const auto& [word, choice] : words) {
              if (CLI::detail::to_lower(text) == word) {
                text = std::to_string(static_cast<int>(choice));
                return "";
              }
              valid.push_back(word);
            }
            return "'" + text + "': must be one of " + join(valid, ", ");
          },
          ""};
}

/// "asplash-data pack --help": where the command line that was not understood is explained.
inline std::string help_of(const CLI::App& app) {
  std::string command = app.get_name();
  for (const CLI::App* subcommand : app.get_subcommands()) command += " " + subcommand->get_name();
  return command + " --help";
}

/// CLI11 says of `asplash-data foo` that a subcommand is required: here it is named, and what is valid.
inline std::string unknown_command(const CLI::App& app, int argc, char** argv) {
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  if (commands.empty() || argc < 2 || argv[1][0] == '-') return "";
  std::vector<std::string> valid;
  for (const CLI::App* command : commands) {
    if (command->get_name() == argv[1]) return "";
    valid.push_back(command->get_name());
  }
  return str("'", argv[1], "': must be one of ", join(valid, ", "));
}

/// What was printed has arrived; not asked where a signal stopped the program, which may have stopped the
/// reader, too.
inline void check_standard_output() {
  std::cout.flush();
  if (!std::cout && !interrupted()) fail("cannot write to standard output");
}

/// Parses the command line and runs the program. Exit status: what `run` returns; 1 and "error: ..." on
/// stderr for what it throws or where standard output could not be written; 2 for a command line that is not
/// understood.
inline int run_program(CLI::App& app, int argc, char** argv, const std::function<int()>& run) {
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond `ulimit -f` is then an error that names its file
  app.set_version_flag("--version", version() + " (" + git_commit() + ")");
  try {
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& help_or_version) {
      const int status = app.exit(help_or_version);
      check_standard_output();
      return status;
    } catch (const CLI::ParseError& error) {
      const std::string unknown = unknown_command(app, argc, argv);
      print_error(str(unknown.empty() ? error.what() : unknown, " (see ", help_of(app), ")"));
      return 2;
    }
    const int status = run();
    check_standard_output();
    return status;
  } catch (const config::ConfigError& problems) {
    print_error(problems);
  } catch (const Error& error) {
    print_error(error.what());
  } catch (const std::bad_alloc&) {
    print_error("not enough memory");
  } catch (const std::filesystem::filesystem_error& error) {
    print_error(str(error.path1().string(), ": ", error.code().message()));
  } catch (const std::exception& error) {
    // libtorch appends its call stack; the first line says what happened.
    const std::string message = error.what();
    print_error(message.substr(0, message.find('\n')));
  }
  return 1;
}

}  // namespace asplash
