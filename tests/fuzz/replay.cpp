// Runs a fuzz target without a fuzzer: its seeds, the inputs of FOLDER (found by fuzzing, or thought of), and
// a fixed number of mutations of both.
//
//   asplash_fuzz_NAME [--seeds-to FOLDER] [INPUT|FOLDER...]
#include <algorithm>
#include <iostream>
#include <random>

#include "asplash/base/files.h"
#include "fuzz/fuzz.h"

namespace asplash::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr int kMutationsOfEach = 300;

struct Input {
  std::string name;
  std::string content;
};

void run(const std::string& content) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(content.data()), content.size());
}

std::vector<Input> inputs_of(const std::string& path) {
  if (!fs::is_directory(path)) return {{path, read_file(path)}};
  std::vector<Input> inputs;
  for (const auto& entry : fs::directory_iterator(path))
    inputs.push_back({entry.path().string(), read_file(entry.path().string())});
  std::sort(inputs.begin(), inputs.end(), [](const Input& a, const Input& b) { return a.name < b.name; });
  return inputs;
}

/// One to four of: a bit flipped, a byte set, a piece removed, doubled or moved, the end cut off.
std::string mutated(std::string content, std::mt19937_64& random) {
  const auto below = [&random](size_t end) {
    return static_cast<size_t>(random() % std::max<size_t>(end, 1));
  };
  for (size_t changes = 1 + below(4); changes > 0 && !content.empty(); --changes) {
    const size_t at = below(content.size());
    const size_t length = 1 + below(std::min<size_t>(content.size() - at, 32));
    switch (below(6)) {
      case 0:
        content[at] = static_cast<char>(content[at] ^ (1 << below(8)));
        break;
      case 1:
        content[at] = static_cast<char>(below(256));
        break;
      case 2:
        content.erase(at, length);
        break;
      case 3:
        content.insert(at, content.substr(at, length));
        break;
      case 4:
        content.insert(below(content.size()), content.substr(at, length));
        break;
      default:
        content.resize(at);
    }
  }
  return content;
}

int replay(const std::vector<std::string>& arguments) {
  std::vector<Input> inputs;
  const std::vector<std::string> own = seeds();
  for (size_t i = 0; i < own.size(); ++i) inputs.push_back({str("seed-", i), own[i]});
  if (arguments.size() == 2 && arguments[0] == "--seeds-to") {
    fs::create_directories(arguments[1]);
    for (const Input& input : inputs) write_file_atomically(arguments[1] + "/" + input.name, input.content);
    return 0;
  }
  for (const std::string& path : arguments) {
    for (Input& input : inputs_of(path)) inputs.push_back(std::move(input));
  }
  std::mt19937_64 random(1);
  for (const Input& input : inputs) {
    std::cout << input.name << std::endl;  // flushed: the last one printed is the one that crashed
    run(input.content);
    for (int i = 0; i < kMutationsOfEach; ++i) run(mutated(input.content, random));
  }
  std::cout << inputs.size() << " inputs, " << kMutationsOfEach << " mutations of each" << std::endl;
  return 0;
}

}  // namespace
}  // namespace asplash::fuzz

int main(int argc, char** argv) {
  return asplash::fuzz::replay(std::vector<std::string>(argv + 1, argv + argc));
}
