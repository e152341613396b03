#include "asplash/model/sequence.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace asplash::model {

Positions::Positions(const ModelConfig& config, const at::Device& device, at::ScalarType type)
    : rotary_(config.positions.kind == PositionKind::rope),
      temperature_(config.attention.adaptive_temperature),
      head_dim_(config.head_dim),
      theta_(config.positions.rope_theta),
      options_(at::TensorOptions(device).dtype(type)) {}

/// Angles are formed as Hugging Face's Llama forms them: inverse frequencies, positions and their product
/// rounded to the tables' type.
void Positions::grow(int64_t tokens) {
  if (tokens <= length_) return;
  length_ = std::max(tokens, 2 * length_);
  const at::NoGradGuard no_grad;
  const at::TensorOptions wide = at::TensorOptions(at::kDouble);
  if (rotary_) {
    const at::Tensor exponents = at::arange(0, head_dim_, 2, wide) / static_cast<double>(head_dim_);
    const auto type = at::typeMetaToScalarType(options_.dtype());
    const at::Tensor inverse_frequencies = at::pow(theta_, exponents.neg()).to(type);
    const at::Tensor angles = at::outer(at::arange(length_, wide).to(type), inverse_frequencies);
    cosine_ = angles.cos().to(options_);
    sine_ = angles.sin().to(options_);
  }
  if (temperature_) log_log_position_ = at::arange(2, length_ + 2, wide).log().log().to(options_);
}

Sequence Positions::stream(int64_t first, int64_t tokens) {
  grow(first + tokens);
  Sequence sequence;
  sequence.first = first;
  if (rotary_) {
    sequence.cosine = cosine_.narrow(0, first, tokens);
    sequence.sine = sine_.narrow(0, first, tokens);
  }
  if (temperature_) sequence.log_log_position = log_log_position_.narrow(0, first, tokens);
  return sequence;
}

Sequence Positions::packed(ops::Documents documents) {
  grow(documents.longest);
  Sequence sequence;
  if (rotary_) {
    sequence.cosine = cosine_.index_select(0, documents.positions);
    sequence.sine = sine_.index_select(0, documents.positions);
  }
  if (temperature_) sequence.log_log_position = log_log_position_.index_select(0, documents.positions);
  sequence.documents = std::move(documents);
  return sequence;
}

}  // namespace asplash::model
