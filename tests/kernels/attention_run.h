#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "asplash/kernels/entmax_attention.h"
#include "kernels/attention_reference.h"

/// Entmax attention on the device from host numbers and back. Whatever a call is to write, and its workspace,
/// is filled with one byte before, and so is the memory between and around the tokens of its tensors.
namespace asplash::test {

bool has_device();

class DeviceBytes {
 public:
  DeviceBytes() = default;
  DeviceBytes(size_t bytes, uint8_t fill);
  explicit DeviceBytes(const std::vector<uint8_t>& bytes);
  template <class T>
  static DeviceBytes of(const std::vector<T>& values) {
    const auto* const bytes = reinterpret_cast<const uint8_t*>(values.data());
    return DeviceBytes(std::vector<uint8_t>(bytes, bytes + values.size() * sizeof(T)));
  }

  /// nullptr for no bytes.
  template <class T = void>
  T* as() const {
    return static_cast<T*>(memory_.get());
  }
  std::vector<uint8_t> host() const;
  template <class T>
  std::vector<T> host_as() const {
    const std::vector<uint8_t> bytes = host();
    const auto* const values = reinterpret_cast<const T*>(bytes.data());
    return std::vector<T>(values, values + bytes.size() / sizeof(T));
  }
  void set(uint8_t fill) const;

 private:
  struct Free {
    void operator()(void* memory) const { cudaFree(memory); }
  };
  size_t bytes_ = 0;
  std::unique_ptr<void, Free> memory_;
};

/// A strided [batch, heads, tokens, head_dim].
class DeviceTensor {
 public:
  DeviceTensor(kernels::ElementType type, int batch, int heads, int tokens, int head_dim);
  void set(uint8_t fill) const { memory_.set(fill); }
  void set(const std::vector<float>& numbers, uint8_t fill);
  kernels::AttentionTensor view() const;
  std::vector<float> numbers() const;
  /// Whether what does not belong to the tensor still holds the byte.
  bool surroundings_are(uint8_t fill) const;

 private:
  template <class F>
  void for_each(F visit) const;

  kernels::ElementType type_;
  int batch_, heads_, tokens_, head_dim_;
  int64_t element_bytes_, token_stride_, head_stride_, batch_stride_;
  DeviceBytes memory_;
};

struct AttentionResult {
  std::vector<float> out, mean_value, tau, weight_sum;
  std::vector<uint32_t> tile_mask;
  std::vector<unsigned long long> statistics;
  std::vector<float> grad_query, grad_key, grad_value;
};

/// One problem's device memory; calls may be repeated.
class AttentionRun {
 public:
  AttentionRun(kernels::ElementType type, const AttentionProblem& problem, const AttentionInputs& inputs,
               uint8_t fill = 0xFF);

  /// Fills what the calls write.
  void poison() const;
  void forward(cudaStream_t stream = nullptr) const;
  void backward(cudaStream_t stream = nullptr) const;
  AttentionResult result() const;
  bool surroundings_are_untouched() const;

  kernels::EntmaxAttentionParams params;
  kernels::EntmaxAttentionGradients gradients;

 private:
  uint8_t fill_;
  DeviceTensor query_, key_, value_, grad_out_, out_, grad_query_, grad_key_, grad_value_;
  DeviceBytes slopes_, cu_q_, cu_k_, tau_, mean_value_, weight_sum_, tile_mask_, support_, statistics_;
  DeviceBytes forward_workspace_, backward_workspace_;
};

kernels::EntmaxAttentionShape shape_of(kernels::ElementType type, const AttentionProblem& problem);

}  // namespace asplash::test
