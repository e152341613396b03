#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "asplash/model/model_config.h"
#include "asplash/ops/documents.h"

namespace asplash::model {

/// What all layers need to know of where the tokens of one forward pass stand.
struct Sequence {
  int64_t first = 0;            ///< tokens already in the key/value cache
  at::Tensor cosine, sine;      ///< rope: [tokens, head_dim / 2]
  at::Tensor log_log_position;  ///< adaptive temperature: log(log(i + 1)), i from 1; [tokens]
  std::optional<ops::Documents> documents;
};

/// Makes Sequences; keeps the tables of angles, which grow as longer sequences come.
class Positions {
 public:
  /// type: of the tables, kFloat or kDouble.
  Positions(const ModelConfig& config, const at::Device& device, at::ScalarType type);

  /// Tokens [first, first + tokens) of a sequence.
  Sequence stream(int64_t first, int64_t tokens);
  /// All tokens of packed documents.
  Sequence packed(ops::Documents documents);

 private:
  void grow(int64_t tokens);

  bool rotary_;
  bool temperature_;
  int64_t head_dim_;
  double theta_;
  at::TensorOptions options_;
  at::Tensor cosine_, sine_;
  at::Tensor log_log_position_;
  int64_t length_ = 0;
};

}  // namespace asplash::model
