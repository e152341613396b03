// The interface of the entmax attention kernels: what it refuses, how it counts.

#include <gtest/gtest.h>

#include "asplash/kernels/entmax_attention.h"
#include "kernels/attention_run.h"

namespace asplash::test {
namespace {

using kernels::AttentionTensor;
using kernels::ElementType;
using kernels::EntmaxAttentionParams;
using kernels::EntmaxAttentionShape;
using kernels::EntmaxStatistics;

AttentionProblem problem(int q_tokens, int k_tokens) {
  AttentionProblem p;
  p.head_dim = 64;
  p.batch = 2;
  p.heads = 4;
  p.kv_heads = 2;
  p.q_tokens = q_tokens;
  p.k_tokens = k_tokens;
  return p;
}

/// Parameters that would be accepted; the pointers lead nowhere.
EntmaxAttentionParams plausible() {
  EntmaxAttentionParams params;
  params.shape = shape_of(ElementType::bf16, problem(100, 100));
  void* const somewhere = reinterpret_cast<void*>(uintptr_t{4096});
  const AttentionTensor tensor{somewhere, 100 * 4 * 64, 64, 4 * 64};
  params.query = params.key = params.value = params.out = tensor;
  params.tau = static_cast<float*>(somewhere);
  params.tile_mask = static_cast<uint32_t*>(somewhere);
  params.workspace = somewhere;
  return params;
}

TEST(EntmaxInterface, RefusesParametersOutOfRange) {
  const auto refused = [](const char* what, void (*change)(EntmaxAttentionParams&)) {
    EntmaxAttentionParams params = plausible();
    change(params);
    EXPECT_EQ(kernels::entmax_attention_forward(params, nullptr), cudaErrorInvalidValue) << what;
    params.mean_value = params.weight_sum = reinterpret_cast<float*>(uintptr_t{4096});
    const kernels::EntmaxAttentionGradients gradients{params.out, params.query, params.key, params.value};
    EXPECT_EQ(kernels::entmax_attention_backward(params, gradients, nullptr), cudaErrorInvalidValue)
        << what << ", backward";
  };
  refused("head_dim 48", [](auto& p) { p.shape.head_dim = 48; });
  refused("head_dim 0", [](auto& p) { p.shape.head_dim = 0; });
  refused("kv_heads that do not divide heads", [](auto& p) { p.shape.kv_heads = 3; });
  refused("no kv_heads", [](auto& p) { p.shape.kv_heads = 0; });
  refused("negative tokens", [](auto& p) { p.shape.q_tokens = -1; });
  refused("alpha 1", [](auto& p) { p.alpha = 1; });
  refused("alpha above 2", [](auto& p) { p.alpha = 2.5F; });
  refused("no query", [](auto& p) { p.query.data = nullptr; });
  refused("no thresholds", [](auto& p) { p.tau = nullptr; });
  refused("no workspace", [](auto& p) { p.workspace = nullptr; });
  refused("an unaligned key", [](auto& p) { p.key.data = static_cast<char*>(p.key.data) + 2; });
  refused("an unaligned stride", [](auto& p) { p.value.token_stride += 1; });
  refused("documents without offsets", [](auto& p) { p.shape.documents = 3; });
  refused("three row tiles a block", [](auto& p) { p.scan_row_tiles = 3; });
  refused("fewer than no pairs of a row", [](auto& p) { p.pairs_of_row = -2; });
  refused("more pairs of a row than keys of a tile", [](auto& p) { p.pairs_of_row = 65; });
  refused("an unaligned support", [](auto& p) { p.support = reinterpret_cast<uint32_t*>(uintptr_t{4100}); });
  refused("values that are too far apart", [](auto& p) { p.value.token_stride = int64_t{1} << 30; });
}

TEST(EntmaxInterface, RefusesMeansThatAreNotAligned) {
  EntmaxAttentionParams params = plausible();
  params.mean_value = reinterpret_cast<void*>(uintptr_t{4096 + 8});
  params.weight_sum = reinterpret_cast<float*>(uintptr_t{4096});
  EXPECT_EQ(kernels::entmax_attention_forward(params, nullptr), cudaErrorInvalidValue);
  const kernels::EntmaxAttentionGradients gradients{params.out, params.query, params.key, params.value};
  EXPECT_EQ(kernels::entmax_attention_backward(params, gradients, nullptr), cudaErrorInvalidValue);
}

TEST(EntmaxInterface, TilesAreCounted) {
  EntmaxAttentionShape shape = shape_of(ElementType::bf16, problem(129, 4097));
  EXPECT_EQ(shape.row_tiles(), 3);
  EXPECT_EQ(shape.key_tiles(), 65);
  EXPECT_EQ(shape.tile_words(), 3);
  EXPECT_EQ(shape.row_bits_at(), 4) << "on 8 bytes";
  EXPECT_EQ(shape.mask_words(), 4 + 65 * 2) << "8 bytes a key tile";
  EXPECT_EQ(shape.mask_size(), int64_t{2} * 4 * 3 * (4 + 65 * 2));
  shape.documents = 2;
  EXPECT_EQ(shape.row_tiles(), 5) << "each document may end within a tile";
  shape.type = ElementType::fp32;
  EXPECT_EQ(shape.mask_words(), 3) << "no row bits";
  shape.type = ElementType::fp16;
  for (const auto& [tokens, bytes] :
       {std::pair(32768, 8), {32769, 4}, {65537, 2}, {131073, 1}, {1 << 20, 1}}) {
    shape.k_tokens = tokens;
    EXPECT_EQ(shape.row_bytes(), bytes) << tokens;
    EXPECT_EQ(shape.mask_words() % 2, 0) << tokens;
  }
}

TEST(EntmaxInterface, SupportIsCounted) {
  EntmaxAttentionShape shape = shape_of(ElementType::bf16, problem(129, 4097));
  EXPECT_EQ(shape.support_of_row(), 96);
  EXPECT_EQ(shape.support_words(), 129 + 129 * 96 + 4) << "a word a row, a word a key, four a head";
  EXPECT_EQ(shape.support_size(), int64_t{2} * 4 * shape.support_words());
  shape.documents = 100;
  EXPECT_EQ(shape.support_words(), 129 + 129 * 96 + 4) << "however many documents there are";
  shape.k_tokens = 10;
  EXPECT_EQ(shape.support_of_row(), 10) << "no row has more keys";
  shape.type = ElementType::fp32;
  EXPECT_EQ(shape.support_size(), 0);
}

TEST(EntmaxInterface, HeadSizes) {
  for (const int head_dim : {32, 64, 96, 128, 256}) {
    EXPECT_TRUE(kernels::entmax_attention_has_head_dim(head_dim)) << head_dim;
  }
  for (const int head_dim : {-64, 0, 1, 16, 48, 63, 80, 112, 160, 192, 512}) {
    EXPECT_FALSE(kernels::entmax_attention_has_head_dim(head_dim)) << head_dim;
  }
}

TEST(EntmaxInterfaceGpu, AddsToStatistics) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  const AttentionProblem p = problem(300, 300);
  const AttentionRun run(ElementType::bf16, p, normal_inputs(p, 1, 5));
  run.forward();
  const auto once = run.result().statistics;
  EXPECT_EQ(once[EntmaxStatistics::kTiles], 2ULL * 4 * 15);
  EXPECT_EQ(once[EntmaxStatistics::kRows], 2ULL * 4 * 300);
  run.forward();
  const auto twice = run.result().statistics;
  for (size_t i = 0; i < once.size(); ++i) EXPECT_EQ(twice[i], 2 * once[i]) << i;
}

}  // namespace
}  // namespace asplash::test
