#include "asplash/model/model_config.h"

#include <cmath>

#include "asplash/base/error.h"

namespace asplash::model {
namespace {

using NamedPositions = std::vector<std::pair<PositionKind, const char*>>;
using NamedSlopes = std::vector<std::pair<SlopeKind, const char*>>;
using NamedFunctions = std::vector<std::pair<AttentionFunction, const char*>>;
using NamedImplementations = std::vector<std::pair<ops::EntmaxImplementation, const char*>>;

const NamedPositions& positions_by_name() {
  static const NamedPositions kNames = {{PositionKind::rope, "rope"},
                                        {PositionKind::nope, "nope"},
                                        {PositionKind::alibi, "alibi"},
                                        {PositionKind::nape, "nape"}};
  return kNames;
}

const NamedFunctions& functions_by_name() {
  static const NamedFunctions kNames = {{AttentionFunction::softmax, "softmax"},
                                        {AttentionFunction::entmax, "entmax"}};
  return kNames;
}

const NamedImplementations& implementations_by_name() {
  using ops::EntmaxImplementation;
  static const NamedImplementations kNames = {
      {EntmaxImplementation::automatic, name_of(EntmaxImplementation::automatic)},
      {EntmaxImplementation::reference, name_of(EntmaxImplementation::reference)}};
  return kNames;
}

/// Matrices of one layer's attention.
int64_t attention_matrices(const ModelConfig& c) {
  const int64_t projections = 2 * c.width * c.heads * c.head_dim + 2 * c.width * c.kv_heads * c.head_dim;
  return projections + (c.attention.adaptive_temperature ? 2 * c.nope_heads() * c.width : 0);
}

int64_t mlp_matrices(const ModelConfig& c) { return 3 * c.width * c.mlp_width; }

}  // namespace

const char* name_of(PositionKind kind) { return config::name_in(positions_by_name(), kind); }
const char* name_of(AttentionFunction function) { return config::name_in(functions_by_name(), function); }

void PositionConfig::describe(config::Fields& f) {
  f.choice("kind", kind, positions_by_name(),
           "rope: rotary embedding; nope: none; alibi: linear biases; nape: some heads alibi, the rest nope");
  const bool alibi = kind == PositionKind::alibi || kind == PositionKind::nape;
  f.only_where(kind == PositionKind::rope, "rope_theta", "kind", "rope");
  f.field("rope_theta", rope_theta, "rope: base of the wavelengths", config::positive());
  f.only_where(kind == PositionKind::nape, "alibi_share", "kind", "nape");
  f.field("alibi_share", alibi_share, "nape: share of the heads, the first ones, that are ALiBi heads",
          config::between(0, 1));
  f.only_where(alibi, "slopes", "kind", "alibi or nape");
  f.choice("slopes", slopes,
           NamedSlopes{{SlopeKind::geometric, "geometric"},
                       {SlopeKind::reciprocal, "reciprocal"},
                       {SlopeKind::list, "list"}},
           "slope of ALiBi head h, from 0: slope_first * slope_ratio^h, 1 / (h + 1), or slope_list[h]");
  const auto only_with_slopes = [&](SlopeKind wanted, const char* key, const char* name) {
    f.only_where(alibi, key, "kind", "alibi or nape");
    f.only_where(!alibi || slopes == wanted, key, "slopes", name);
  };
  only_with_slopes(SlopeKind::geometric, "slope_first", "geometric");
  f.field("slope_first", slope_first, "geometric: slope of the first ALiBi head", config::positive());
  only_with_slopes(SlopeKind::geometric, "slope_ratio", "geometric");
  f.field("slope_ratio", slope_ratio, "geometric: from one head to the next",
          config::Range{0, 1, true, false});
  only_with_slopes(SlopeKind::list, "slope_list", "list");
  f.field("slope_list", slope_list, "list: one slope for each ALiBi head", config::at_least(0));
}

void AttentionConfig::describe(config::Fields& f) {
  f.choice("function", function, functions_by_name(),
           "what turns scores into weights: softmax (dense) or alpha-entmax (exact zeros)");
  f.only_where(function == AttentionFunction::entmax, "alpha", "function", "entmax");
  f.field("alpha", alpha, "entmax: towards 1 softmax, 2 sparsemax", config::Range{1, 2, true, false});
  f.field("adaptive_temperature", adaptive_temperature,
          "NoPE heads scale their queries with the position, by learned amounts (ASEntmax)");
  f.only_where(function == AttentionFunction::entmax, "implementation", "function", "entmax");
  f.choice("implementation", implementation, implementations_by_name(),
           "entmax: auto, the fastest the device has; reference, tensor operations (slow, to compare with)");
}

void ModelConfig::describe(config::Fields& f) {
  // Far above what anyone trains, and such that no product of them leaves 64 bits.
  constexpr double kWidest = 1 << 20, kMost = 1 << 16, kLargestVocabulary = 2147483647;
  f.field("vocab_size", vocab_size, "tokens the model knows; 0: the tokenizer's",
          config::between(0, kLargestVocabulary));
  f.field("width", width, "size of the residual stream", config::between(1, kWidest));
  f.field("layers", layers, "decoder layers", config::between(1, kMost));
  f.field("heads", heads, "query heads of a layer", config::between(1, kMost));
  f.field("kv_heads", kv_heads, "key and value heads, each shared by heads / kv_heads queries; 0: heads",
          config::between(0, kMost));
  f.field("head_dim", head_dim, "size of a head; 0: width / heads", config::between(0, 256));
  f.field("mlp_width", mlp_width, "inner size of SwiGLU; 0: 8/3 width, rounded up to a multiple of 64",
          config::between(0, 4 * kWidest));
  f.field("tied_embeddings", tied_embeddings, "the output projection is the embedding matrix");
  f.field("qk_norm", qk_norm, "RMSNorm of each query and key head, with a learned scale");
  f.only_where(qk_norm, "qk_norm_init", "qk_norm", "true");
  f.field("qk_norm_init", qk_norm_init, "qk_norm: initial scale of the queries", config::positive());
  f.field("norm_eps", norm_eps, "RMSNorm's epsilon", config::positive());
  f.field("init_std", init_std,
          "standard deviation of initial weights; projections back into the stream: / sqrt(2 layers)",
          config::positive());
  f.section("positions", positions, "how the model knows where a token stands");
  f.section("attention", attention, "how it weighs what it sees");

  const ModelConfig full = resolved();
  f.check(head_dim > 0 || heads < 1 || width % heads == 0, "heads",
          str("must divide width (", width, ") while head_dim is 0, got ", heads));
  f.check(full.kv_heads < 1 || heads % full.kv_heads == 0, "kv_heads",
          str("must divide heads (", heads, "), got ", full.kv_heads));
  const PositionKind kind = positions.kind;
  f.check(kind != PositionKind::rope || full.head_dim % 2 == 0, "head_dim",
          str("must be even for rope positions, got ", full.head_dim));
  f.check(kind != PositionKind::nape || (alibi_heads() > 0 && alibi_heads() < heads), "positions.alibi_share",
          str(positions.alibi_share, " of ", heads, " heads gives ", alibi_heads(),
              " ALiBi heads; nape needs at least one ALiBi head and one NoPE head"));
  const auto listed = static_cast<int64_t>(positions.slope_list.size());
  f.check(alibi_heads() == 0 || positions.slopes != SlopeKind::list || listed == alibi_heads(),
          "positions.slope_list",
          str("must hold one slope for each of the ", alibi_heads(), " ALiBi heads, got ", listed));
  f.check(!attention.adaptive_temperature || nope_heads() > 0, "attention.adaptive_temperature",
          "acts on NoPE heads: it needs positions.kind nope or nape");
}

ModelConfig ModelConfig::resolved() const {
  ModelConfig full = *this;
  if (full.kv_heads == 0) full.kv_heads = heads;
  if (full.head_dim == 0 && heads > 0) full.head_dim = width / heads;
  if (full.mlp_width == 0) full.mlp_width = (8 * width + 3 * 64 - 1) / (3 * 64) * 64;
  return full;
}

int64_t ModelConfig::alibi_heads() const {
  switch (positions.kind) {
    case PositionKind::alibi:
      return heads;
    case PositionKind::nape:
      return std::llround(positions.alibi_share * static_cast<double>(heads));
    case PositionKind::rope:
    case PositionKind::nope:
      break;
  }
  return 0;
}

int64_t ModelConfig::nope_heads() const {
  return positions.kind == PositionKind::rope ? 0 : heads - alibi_heads();
}

std::vector<double> ModelConfig::alibi_slopes() const {
  if (alibi_heads() == 0) return {};
  std::vector<double> slopes(static_cast<size_t>(heads), 0.0);
  for (size_t h = 0; h < static_cast<size_t>(alibi_heads()); ++h) {
    switch (positions.slopes) {
      case SlopeKind::geometric:
        slopes[h] = positions.slope_first * std::pow(positions.slope_ratio, static_cast<double>(h));
        break;
      case SlopeKind::reciprocal:
        slopes[h] = 1.0 / static_cast<double>(h + 1);
        break;
      case SlopeKind::list:
        if (positions.slope_list.size() != static_cast<size_t>(alibi_heads())) {
          fail("model.positions.slope_list: must hold one slope for each of the ", alibi_heads(),
               " ALiBi heads, got ", positions.slope_list.size());
        }
        slopes[h] = positions.slope_list[h];
        break;
    }
  }
  return slopes;
}

std::vector<std::pair<std::string, int64_t>> parameters_by_part(const ModelConfig& config) {
  const ModelConfig c = config.resolved();
  const int64_t table = c.vocab_size * c.width;
  const int64_t layer_norms = 2 * c.width + (c.qk_norm ? 2 * c.head_dim : 0);
  return {{"embeddings", table},
          {"attention", c.layers * attention_matrices(c)},
          {"mlp", c.layers * mlp_matrices(c)},
          {"norms", c.layers * layer_norms + c.width},
          {"head", c.tied_embeddings ? 0 : table}};
}

int64_t parameter_count(const ModelConfig& config) {
  int64_t total = 0;
  for (const auto& part : parameters_by_part(config)) total += part.second;
  return total;
}

double train_flops_per_token(const ModelConfig& config, int64_t context) {
  const ModelConfig c = config.resolved();
  const int64_t matrices = c.layers * (attention_matrices(c) + mlp_matrices(c)) + c.vocab_size * c.width;
  const int64_t attention = c.layers * c.heads * c.head_dim * context;
  return 6.0 * static_cast<double>(matrices) + 6.0 * static_cast<double>(attention);
}

}  // namespace asplash::model
