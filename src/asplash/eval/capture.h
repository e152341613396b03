#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace asplash::eval {

struct CaptureOptions {
  std::string file;             ///< safetensors, written whole or not at all; replaced where there is one
  std::string checkpoint;       ///< checkpoint folder, or a run folder (its newest checkpoint)
  std::string data;             ///< manifest of a packed split, or its folder
  std::vector<int64_t> layers;  ///< from 0; empty: all
  int64_t context = 0;          ///< tokens of a window; 0: as the checkpoint was trained
  int64_t windows = 1;          ///< spread over the data
  std::string documents;        ///< stream, packed, or empty: as the checkpoint was trained
  std::string device = "auto";
  std::string precision = "automatic";  ///< automatic (bf16 on a GPU, fp32 on the CPU), fp32, bf16
  int64_t threads = 0;                  ///< 0: libtorch's choice
};

/// What `asplash-eval --capture` does: opens checkpoint and data, runs the model, and writes what the
/// attention operator was given in the chosen layers, with the metadata listed in docs/evaluation.md. Returns
/// one line that says what lies where. Throws asplash::Error, before the model is built where the data, its
/// tokenizer, the layers or the windows do not fit.
std::string capture(const CaptureOptions& options);

}  // namespace asplash::eval
