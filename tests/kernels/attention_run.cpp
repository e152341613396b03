#include "kernels/attention_run.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <cstring>

namespace asplash::test {
namespace {

using kernels::ElementType;

constexpr int kPadTokens = 3;    // before, after and between heads
constexpr int kPadElements = 8;  // after each token

void store(ElementType type, float number, uint8_t* at) {
  if (type == ElementType::fp32) {
    std::memcpy(at, &number, sizeof(number));
  } else if (type == ElementType::bf16) {
    const __nv_bfloat16 x = __float2bfloat16_rn(number);
    std::memcpy(at, &x, sizeof(x));
  } else {
    const __half x = __float2half_rn(number);
    std::memcpy(at, &x, sizeof(x));
  }
}

float load(ElementType type, const uint8_t* at) {
  if (type == ElementType::fp32) {
    float x = 0;
    std::memcpy(&x, at, sizeof(x));
    return x;
  }
  if (type == ElementType::bf16) {
    __nv_bfloat16 x;
    std::memcpy(&x, at, sizeof(x));
    return __bfloat162float(x);
  }
  __half x;
  std::memcpy(&x, at, sizeof(x));
  return __half2float(x);
}

int64_t bytes_of(ElementType type) { return type == ElementType::fp32 ? 4 : 2; }

size_t product(int64_t a, int64_t b, int64_t c, int64_t d) { return static_cast<size_t>(a * b * c * d); }

}  // namespace

bool has_device() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

DeviceBytes::DeviceBytes(size_t bytes, uint8_t fill) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, bytes), cudaSuccess);
  memory_.reset(memory);
  set(fill);
}

DeviceBytes::DeviceBytes(const std::vector<uint8_t>& bytes) : DeviceBytes(bytes.size(), 0) {
  if (bytes_ == 0) return;
  EXPECT_EQ(cudaMemcpy(memory_.get(), bytes.data(), bytes_, cudaMemcpyHostToDevice), cudaSuccess);
}

std::vector<uint8_t> DeviceBytes::host() const {
  std::vector<uint8_t> bytes(bytes_);
  if (bytes_ > 0) {
    EXPECT_EQ(cudaMemcpy(bytes.data(), memory_.get(), bytes_, cudaMemcpyDeviceToHost), cudaSuccess);
  }
  return bytes;
}

void DeviceBytes::set(uint8_t fill) const {
  if (bytes_ == 0) return;
  EXPECT_EQ(cudaMemset(memory_.get(), fill, bytes_), cudaSuccess);
}

// [batch, tokens, heads, head_dim], as projections write it.
DeviceTensor::DeviceTensor(ElementType type, int batch, int heads, int tokens, int head_dim)
    : type_(type),
      batch_(batch),
      heads_(heads),
      tokens_(tokens),
      head_dim_(head_dim),
      element_bytes_(bytes_of(type)),
      token_stride_(int64_t{heads} * head_dim + kPadElements),
      head_stride_(head_dim),
      batch_stride_((int64_t{tokens} + kPadTokens) * token_stride_),
      memory_(static_cast<size_t>((batch * batch_stride_ + kPadTokens * token_stride_) * element_bytes_),
              0xFF) {}

/// visit(index in contiguous order, byte offset)
template <class F>
void DeviceTensor::for_each(F visit) const {
  size_t index = 0;
  for (int64_t b = 0; b < batch_; ++b) {
    for (int64_t h = 0; h < heads_; ++h) {
      for (int64_t t = 0; t < tokens_; ++t) {
        const int64_t at = b * batch_stride_ + h * head_stride_ + (t + kPadTokens) * token_stride_;
        for (int64_t d = 0; d < head_dim_; ++d)
          visit(index++, static_cast<size_t>((at + d) * element_bytes_));
      }
    }
  }
}

void DeviceTensor::set(const std::vector<float>& numbers, uint8_t fill) {
  std::vector<uint8_t> bytes(memory_.host().size(), fill);
  for_each([&](size_t index, size_t at) { store(type_, numbers[index], bytes.data() + at); });
  memory_ = DeviceBytes(bytes);
}

kernels::AttentionTensor DeviceTensor::view() const {
  return {memory_.as<uint8_t>() + kPadTokens * token_stride_ * element_bytes_, batch_stride_, head_stride_,
          token_stride_};
}

std::vector<float> DeviceTensor::numbers() const {
  const std::vector<uint8_t> bytes = memory_.host();
  std::vector<float> numbers(product(batch_, heads_, tokens_, head_dim_));
  for_each([&](size_t index, size_t at) { numbers[index] = load(type_, bytes.data() + at); });
  return numbers;
}

bool DeviceTensor::surroundings_are(uint8_t fill) const {
  std::vector<uint8_t> bytes = memory_.host();
  for_each(
      [&](size_t, size_t at) { std::memset(bytes.data() + at, fill, static_cast<size_t>(element_bytes_)); });
  for (const uint8_t byte : bytes) {
    if (byte != fill) return false;
  }
  return true;
}

kernels::EntmaxAttentionShape shape_of(ElementType type, const AttentionProblem& p) {
  kernels::EntmaxAttentionShape shape;
  shape.type = type;
  shape.head_dim = p.head_dim;
  shape.batch = p.batch;
  shape.heads = p.heads;
  shape.kv_heads = p.kv_heads;
  shape.q_tokens = p.q_tokens;
  shape.k_tokens = p.k_tokens;
  shape.documents = p.documents();
  return shape;
}

AttentionRun::AttentionRun(ElementType type, const AttentionProblem& p, const AttentionInputs& inputs,
                           uint8_t fill)
    : fill_(fill),
      query_(type, p.batch, p.heads, p.q_tokens, p.head_dim),
      key_(type, p.batch, p.kv_heads, p.k_tokens, p.head_dim),
      value_(type, p.batch, p.kv_heads, p.k_tokens, p.head_dim),
      grad_out_(type, p.batch, p.heads, p.q_tokens, p.head_dim),
      out_(type, p.batch, p.heads, p.q_tokens, p.head_dim),
      grad_query_(type, p.batch, p.heads, p.q_tokens, p.head_dim),
      grad_key_(type, p.batch, p.kv_heads, p.k_tokens, p.head_dim),
      grad_value_(type, p.batch, p.kv_heads, p.k_tokens, p.head_dim),
      slopes_(DeviceBytes::of(p.slopes)),
      cu_q_(DeviceBytes::of(p.cu_q)),
      cu_k_(DeviceBytes::of(p.cu_k)) {
  query_.set(inputs.query, 0xFF);
  key_.set(inputs.key, 0xFF);
  value_.set(inputs.value, 0xFF);
  grad_out_.set(inputs.grad_out, 0xFF);
  params.shape = shape_of(type, p);
  const size_t rows = product(p.batch, p.heads, p.q_tokens, 1);
  tau_ = DeviceBytes(rows * sizeof(float), fill);
  weight_sum_ = DeviceBytes(rows * sizeof(float), fill);
  mean_value_ = DeviceBytes(product(static_cast<int64_t>(rows), p.head_dim, bytes_of(type), 1), fill);
  tile_mask_ = DeviceBytes(static_cast<size_t>(params.shape.mask_size()) * sizeof(uint32_t), fill);
  support_ = DeviceBytes(static_cast<size_t>(params.shape.support_size()) * sizeof(uint32_t), fill);
  statistics_ = DeviceBytes(kernels::EntmaxStatistics::kCounters * sizeof(unsigned long long), 0);
  forward_workspace_ = DeviceBytes(kernels::entmax_forward_workspace(params.shape), fill);
  backward_workspace_ = DeviceBytes(kernels::entmax_backward_workspace(params.shape), fill);
  params.alpha = p.alpha;
  params.scale = p.scale;
  params.causal = p.causal;
  params.slopes = slopes_.as<float>();
  params.cu_q = cu_q_.as<int32_t>();
  params.cu_k = cu_k_.as<int32_t>();
  params.query = query_.view();
  params.key = key_.view();
  params.value = value_.view();
  params.out = out_.view();
  params.tau = tau_.as<float>();
  params.mean_value = mean_value_.as();
  params.weight_sum = weight_sum_.as<float>();
  params.tile_mask = tile_mask_.as<uint32_t>();
  params.support = support_.as<uint32_t>();
  params.statistics = statistics_.as<unsigned long long>();
  gradients = {grad_out_.view(), grad_query_.view(), grad_key_.view(), grad_value_.view()};
  poison();
}

void AttentionRun::poison() const {
  for (const auto* tensor : {&out_, &grad_query_, &grad_key_, &grad_value_}) tensor->set(fill_);
  for (const auto* bytes : {&tau_, &mean_value_, &weight_sum_, &tile_mask_, &support_, &forward_workspace_,
                            &backward_workspace_}) {
    bytes->set(fill_);
  }
  statistics_.set(0);
}

void AttentionRun::forward(cudaStream_t stream) const {
  kernels::EntmaxAttentionParams call = params;
  call.workspace = forward_workspace_.as();
  ASSERT_EQ(kernels::entmax_attention_forward(call, stream), cudaSuccess);
}

void AttentionRun::backward(cudaStream_t stream) const {
  kernels::EntmaxAttentionParams call = params;
  call.workspace = backward_workspace_.as();
  ASSERT_EQ(kernels::entmax_attention_backward(call, gradients, stream), cudaSuccess);
}

AttentionResult AttentionRun::result() const {
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  AttentionResult r;
  r.out = out_.numbers();
  const std::vector<uint8_t> mean = mean_value_.host();
  const auto step = static_cast<size_t>(bytes_of(params.shape.type));
  for (size_t at = 0; at < mean.size(); at += step) {
    r.mean_value.push_back(load(params.shape.type, mean.data() + at));
  }
  r.tau = tau_.host_as<float>();
  r.weight_sum = weight_sum_.host_as<float>();
  r.tile_mask = tile_mask_.host_as<uint32_t>();
  r.statistics = statistics_.host_as<unsigned long long>();
  r.grad_query = grad_query_.numbers();
  r.grad_key = grad_key_.numbers();
  r.grad_value = grad_value_.numbers();
  return r;
}

bool AttentionRun::surroundings_are_untouched() const {
  for (const auto* tensor : {&out_, &grad_query_, &grad_key_, &grad_value_}) {
    if (!tensor->surroundings_are(fill_)) return false;
  }
  return true;
}

}  // namespace asplash::test
