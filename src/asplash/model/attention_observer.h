#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace asplash::model {

/// What one layer's attention operator was given and what it returned: after projections, QK-norm, rotation
/// and adaptive temperature, before the output projection. In the compute type, on the model's device; views
/// of any strides, alive for as long as someone holds them. Packed documents: batch is 1 and tokens are all
/// of the batch's, as the operator sees them.
struct AttentionTensors {
  at::Tensor query;   ///< [batch, heads, tokens, head_dim]
  at::Tensor key;     ///< [batch, kv_heads, tokens, head_dim]
  at::Tensor value;   ///< [batch, kv_heads, tokens, head_dim]
  at::Tensor output;  ///< [batch, heads, tokens, head_dim]
};

/// Is shown the attention of each layer of a forward pass (ModelInput::observer).
class AttentionObserver {
 public:
  virtual ~AttentionObserver() = default;
  /// Called once for each layer, from 0 in order, when its work has been queued on the current stream. What
  /// it throws ends the pass.
  virtual void attended(int64_t layer, const AttentionTensors& tensors) = 0;
};

}  // namespace asplash::model
