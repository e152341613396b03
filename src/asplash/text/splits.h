#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace asplash::text {

struct SplitShare {
  std::string name;
  double share = 0;  ///< of the documents, 0 < share < 1
};

/// Parses "valid=0.02,test=0.02"; names consist of letters, digits, '_', '-' and '.'. Throws asplash::Error
/// for malformed text, names given twice and shares that leave nothing.
std::vector<SplitShare> parse_splits(const std::string& text);

/// Throws asplash::Error unless `name` can be a split's.
void check_split_name(const std::string& name);

/// Deals documents out to splits: by a hash of (seed, number of the document), so that a document's split
/// does not depend on any other document.
class Splitter {
 public:
  Splitter(std::vector<SplitShare> shares, uint64_t seed);
  /// Index into the shares of document `number`; their count for the rest.
  size_t split_of(int64_t number) const;

 private:
  std::vector<double> upper_;  // cumulative shares
  uint64_t seed_;
};

}  // namespace asplash::text
