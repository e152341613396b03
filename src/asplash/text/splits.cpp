#include "asplash/text/splits.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "asplash/base/error.h"
#include "asplash/text/random_keys.h"

namespace asplash::text {

void check_split_name(const std::string& name) {
  const bool valid =
      !name.empty() && name.front() != '.' && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
               c == '-' || c == '.';
      });
  if (!valid) fail("split name '", name, "': must consist of letters, digits, '_', '-' and '.'");
}

std::vector<SplitShare> parse_splits(const std::string& text) {
  std::vector<SplitShare> splits;
  double sum = 0;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t equals = part.find('=');
    if (equals == std::string::npos) fail("--split '", part, "': must be name=share, for example valid=0.02");
    SplitShare split{part.substr(0, equals), 0};
    check_split_name(split.name);
    const std::string number = part.substr(equals + 1);
    char* end = nullptr;
    split.share = std::strtod(number.c_str(), &end);
    if (number.empty() || *end != '\0' || !(split.share > 0 && split.share < 1))
      fail("--split '", part, "': the share must be a number between 0 and 1");
    for (const SplitShare& other : splits) {
      if (other.name == split.name) fail("--split: '", split.name, "' is named twice");
    }
    sum += split.share;
    splits.push_back(split);
  }
  if (sum >= 1) fail("--split '", text, "': the shares must add up to less than 1, they make ", sum);
  return splits;
}

Splitter::Splitter(std::vector<SplitShare> shares, uint64_t seed) : seed_(seed) {
  double sum = 0;
  for (const SplitShare& split : shares) upper_.push_back(sum += split.share);
}

size_t Splitter::split_of(int64_t number) const {
  if (upper_.empty()) return 0;
  const double share = random_share(seed_, static_cast<uint64_t>(number));
  return static_cast<size_t>(std::upper_bound(upper_.begin(), upper_.end(), share) - upper_.begin());
}

}  // namespace asplash::text
