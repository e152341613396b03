#include "table.h"

#include <yaml-cpp/yaml.h>

#include <set>

#include "asplash/base/error.h"

namespace asplash::bad_input {
namespace {

std::vector<std::string> list(const YAML::Node& node) {
  return node ? node.as<std::vector<std::string>>() : std::vector<std::string>{};
}

Case read_case(const std::string& path, const YAML::Node& row) {
  static const std::set<std::string> kKeys = {"name",   "setup",        "run",         "exit",   "says",
                                              "prints", "lines_before", "lines_after", "writes", "peak_mib"};
  Case result;
  result.place = str(path, ":", row.Mark().line + 1);
  for (const auto& entry : row) {
    const auto key = entry.first.as<std::string>();
    if (kKeys.count(key) == 0) fail(result.place, ": unknown key ", key);
  }
  result.name = row["name"].as<std::string>();
  result.setup = row["setup"].as<std::string>("");
  result.run = row["run"].as<std::string>();
  result.exit = row["exit"].as<int>(1);
  result.says = list(row["says"]);
  result.prints = list(row["prints"]);
  result.lines_before = row["lines_before"].as<int>(0);
  result.lines_after = row["lines_after"].as<int>(0);
  result.writes = list(row["writes"]);
  result.peak_mib = row["peak_mib"].as<double>(0);
  if (result.exit != 0 && result.says.empty()) fail(result.place, ": says no message that must be given");
  return result;
}

}  // namespace

std::vector<Case> read_table(const std::string& name) {
  const std::string path = ASPLASH_SOURCE_DIR "/tests/bad_input/" + name + ".yaml";
  try {
    std::vector<Case> cases;
    for (const YAML::Node& row : YAML::LoadFile(path)) cases.push_back(read_case(path, row));
    return cases;
  } catch (const YAML::Exception& error) {
    fail(path, ": ", error.what());
  }
}

}  // namespace asplash::bad_input
