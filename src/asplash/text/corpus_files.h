#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace asplash::text {

enum class CorpusFormat { text, json_lines };

struct CorpusFile {
  std::string path;
  CorpusFormat format = CorpusFormat::text;
  int64_t bytes = 0;  ///< on the disk
};

/// The files that inputs name: a file itself; of a folder all files with known endings (.txt, .jsonl, each
/// also with .xz, .gz, .zst or .bz2), folders within it included, ordered by path; of a glob pattern its
/// matches. Throws asplash::Error for inputs that name nothing, and for named files of unknown endings.
std::vector<CorpusFile> find_corpus_files(const std::vector<std::string>& inputs);

}  // namespace asplash::text
