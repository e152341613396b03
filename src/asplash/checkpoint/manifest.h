#pragma once

#include <string>
#include <vector>

namespace asplash::checkpoint {

/// Writes manifest.json of a checkpoint folder: size and XXH3-128 of each of `files`, which must be there.
void write_manifest(const std::string& folder, const std::vector<std::string>& files);

enum class Verify { sizes, checksums };

/// Compares a folder with its manifest. Returns "" if all agrees, else one line that names the file and what
/// is wrong with it. `required` files must be listed.
std::string find_damage(const std::string& folder, const std::vector<std::string>& required, Verify verify);

}  // namespace asplash::checkpoint
