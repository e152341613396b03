#pragma once

#include <cstdint>

#include "asplash/model/model_config.h"

namespace asplash::model {

/// What a training step holds at its peak, in bytes, by segment. Counted from the tensors that the decoder
/// keeps for the backward pass; allocator rounding, workspaces (of entmax attention on a GPU: up to 1 GiB, or
/// 12 bytes a number of a layer's query and 0.25 GiB if that is more) and the CUDA context (about 0.5 GiB)
/// come on top.
struct MemoryEstimate {
  int64_t weights = 0;      ///< fp32 parameters, and their bf16 copies of a forward pass
  int64_t gradients = 0;    ///< fp32
  int64_t optimizer = 0;    ///< AdamW's two moments, fp32
  int64_t activations = 0;  ///< kept by all layers for the backward pass, and one layer's gradients
  int64_t logits = 0;       ///< a chunk of logits and the gradients that the fused loss computes ahead

  int64_t total() const { return weights + gradients + optimizer + activations + logits; }
};

/// micro_batch sequences of `context` tokens at a time. bf16: products in bf16 over fp32 parameters.
MemoryEstimate estimate_memory(const ModelConfig& config, int64_t micro_batch, int64_t context, bool bf16,
                               bool cuda);

}  // namespace asplash::model
