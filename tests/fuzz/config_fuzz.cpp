// The YAML reader, with the keys of asplash-train. Input: the file's text, then overrides ("key=value"), each
// after a zero byte.
#include "asplash/base/files.h"
#include "asplash/config/config.h"
#include "asplash/train/run_config.h"
#include "fuzz/fuzz.h"

namespace asplash::fuzz {
namespace {

// Nothing lies there that `base:` could name.
constexpr const char* kName = "/nowhere/asplash-fuzz/config.yaml";
constexpr size_t kMostOverrides = 8;
// One for each problem; the reader lists at most a hundred.
constexpr long kMostLines = 101;

void read(Bytes input) {
  const std::string text(input.until('\0'));
  std::vector<std::string> overrides;
  while (!input.rest().empty() && overrides.size() < kMostOverrides)
    overrides.emplace_back(input.until('\0'));

  train::RunConfig config;
  const auto refused =
      refusal([&] { config::load_text(text, kName, overrides, config::describing(config)); }, kMostLines);
  if (refused) return;
  // What was read prints to a file that reads back the same: every checkpoint relies on it.
  train::RunConfig defaults, again;
  const std::string printed =
      config::print_documented(config::describing(config), config::describing(defaults));
  config::load_text(printed, "printed", {}, config::describing(again));
  const auto differences = config::differences(config::describing(config), config::describing(again));
  require(differences.empty(), "reads back changed: " + join(differences, ", "));
}

}  // namespace

std::vector<std::string> seeds() {
  std::vector<std::string> result;
  for (const auto& entry : std::filesystem::directory_iterator(ASPLASH_SOURCE_DIR "/configs")) {
    std::string text = read_file(entry.path().string());
    // Bases are read from the disk: what they say stands in the seeds of their own.
    const size_t base = text.rfind("base:", 0) == 0 ? 0 : text.find("\nbase:");
    if (base != std::string::npos) text.insert(base == 0 ? 0 : base + 1, "# ");
    result.push_back(text);
    for (const char* change : {"optim.lr=3e-4", "model.attention.function=softmax", "train.steps=1e6"})
      text += std::string(1, '\0') + change;
    result.push_back(text);
    train::RunConfig config;
    config::load(entry.path().string(), {}, config::describing(config));
    result.push_back(config::print(config::describing(config)));
  }
  return result;
}

}  // namespace asplash::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  asplash::fuzz::read({data, size});
  return 0;
}
