#include "asplash/base/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/rotating_file_sink.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/terminal.h"

namespace asplash::log {
namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

// Console lines of level info are plain text; the others say what they are. Written through the terminal
// module, so that a progress line stays below them.
class ConsoleSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  ConsoleSink(bool timestamps, bool colours) : colours_(colours) {
    set_pattern_(timestamps ? "%H:%M:%S " : "");
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t time;
    formatter_->format(message, time);
    std::string line(time.data(), time.size());
    // The pattern formatter ends every line; the terminal adds its own line break.
    while (!line.empty() && line.back() == '\n') line.pop_back();
    line += prefix(message.level);
    line.append(message.payload.data(), message.payload.size());
    terminal::write_line(line);
  }
  void flush_() override {}

 private:
  std::string prefix(spdlog::level::level_enum level) const {
    switch (level) {
      case spdlog::level::debug:
        return coloured("debug: ", "\x1b[2m");
      case spdlog::level::warn:
        return coloured("warning: ", "\x1b[33m");
      case spdlog::level::err:
        return coloured("error: ", "\x1b[31m");
      default:
        return "";
    }
  }
  std::string coloured(const std::string& text, const char* code) const {
    return colours_ ? code + text + "\x1b[0m" : text;
  }

  bool colours_;
};

struct Loggers {
  std::shared_ptr<spdlog::logger> everywhere;
  std::shared_ptr<spdlog::logger> file;  ///< null without a log file
};

std::shared_ptr<spdlog::logger> make_logger(std::vector<spdlog::sink_ptr> sinks, Level level) {
  auto logger = std::make_shared<spdlog::logger>("asplash", sinks.begin(), sinks.end());
  logger->set_level(to_spdlog(level));
  logger->flush_on(spdlog::level::debug);  // a crash must not take the last lines with it
  logger->set_error_handler([told = std::make_shared<std::once_flag>()](const std::string& reason) {
    std::call_once(*told, [&reason] {
      terminal::write_line("warning: the log file cannot be written, its lines are lost from here on: " +
                           reason);
    });
  });
  return logger;
}

spdlog::sink_ptr make_file_sink(const Options& options) {
  if (options.most_file_bytes == 0) {
    return std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file);
  }
  return std::make_shared<spdlog::sinks::rotating_file_sink_mt>(options.file, options.most_file_bytes,
                                                                kOlderFiles);
}

std::shared_ptr<const Loggers> make_loggers(const Options& options) {
  auto loggers = std::make_shared<Loggers>();
  std::vector<spdlog::sink_ptr> sinks = {
      std::make_shared<ConsoleSink>(options.timestamps, terminal::has_colours())};
  if (!options.file.empty()) {
    try {
      const spdlog::sink_ptr file = make_file_sink(options);
      file->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
      sinks.push_back(file);
      loggers->file = make_logger({file}, options.level);
    } catch (const spdlog::spdlog_ex& e) {
      fail("log file ", options.file, ": ", e.what());
    }
  }
  loggers->everywhere = make_logger(sinks, options.level);
  return loggers;
}

// A process has one log; init() swaps it while other threads may be writing.
struct Holder {
  std::mutex mutex;
  std::shared_ptr<const Loggers> loggers = make_loggers(Options{});
};

Holder& holder() {
  static Holder instance;
  return instance;
}

std::shared_ptr<const Loggers> current() {
  Holder& h = holder();
  const std::lock_guard<std::mutex> lock(h.mutex);
  return h.loggers;
}

// Tables and multi-line messages: each line gets its own time in the file.
void write(spdlog::logger& logger, Level level, const std::string& message) {
  size_t begin = 0;
  do {
    const size_t end = std::min(message.find('\n', begin), message.size());
    logger.log(to_spdlog(level), spdlog::string_view_t(message.data() + begin, end - begin));
    begin = end + 1;
  } while (begin < message.size());
}

}  // namespace

std::vector<std::string> older_files(const std::string& file) {
  std::vector<std::string> names;
  for (size_t i = 1; i <= kOlderFiles; ++i) {
    names.push_back(spdlog::sinks::rotating_file_sink_mt::calc_filename(file, i));
  }
  return names;
}

void init(const Options& options) {
  auto loggers = make_loggers(options);
  Holder& h = holder();
  const std::lock_guard<std::mutex> lock(h.mutex);
  h.loggers = std::move(loggers);
}

void debug(const std::string& message) { write(*current()->everywhere, Level::debug, message); }
void info(const std::string& message) { write(*current()->everywhere, Level::info, message); }
void warning(const std::string& message) { write(*current()->everywhere, Level::warning, message); }
void error(const std::string& message) { write(*current()->everywhere, Level::error, message); }

void file_only(const std::string& message) {
  const auto loggers = current();
  if (loggers->file) write(*loggers->file, Level::info, message);
}

void flush() { current()->everywhere->flush(); }

}  // namespace asplash::log
