#include "asplash/ops/entmax_problem.h"

#include <iomanip>

namespace asplash::ops {
namespace {

constexpr int64_t kTile = 64;

bool is_supported(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
}

void check_tensor(const char* name, const at::Tensor& tensor, const at::Tensor& query, const char* shape) {
  TORCH_CHECK(tensor.dim() == 4, "entmax_attention: ", name, ": expected 4 dimensions ", shape, ", got ",
              tensor.sizes());
  TORCH_CHECK(is_supported(tensor.scalar_type()), "entmax_attention: ", name, ": dtype ",
              tensor.scalar_type(), " is not supported; use float32, float64, bfloat16 or float16");
  TORCH_CHECK(tensor.scalar_type() == query.scalar_type(), "entmax_attention: ", name, ": dtype ",
              tensor.scalar_type(), " differs from query's ", query.scalar_type());
  TORCH_CHECK(tensor.device() == query.device(), "entmax_attention: ", name, ": on ", tensor.device(),
              ", but query is on ", query.device());
}

void check_shapes(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  check_tensor("query", query, query, "[batch, heads, q_tokens, head_dim]");
  check_tensor("key", key, query, "[batch, kv_heads, k_tokens, head_dim]");
  check_tensor("value", value, query, "[batch, kv_heads, k_tokens, head_dim]");
  TORCH_CHECK(query.size(1) > 0 && query.size(3) > 0,
              "entmax_attention: query: heads and head_dim must be at ", "least 1, got ", query.sizes());
  TORCH_CHECK(key.size(0) == query.size(0), "entmax_attention: key: batch ", key.size(0), " of ", key.sizes(),
              " differs from query's ", query.size(0));
  TORCH_CHECK(key.size(3) == query.size(3), "entmax_attention: key: head_dim ", key.size(3), " of ",
              key.sizes(), " differs from query's ", query.size(3));
  TORCH_CHECK(key.size(1) > 0 && query.size(1) % key.size(1) == 0, "entmax_attention: key: kv_heads ",
              key.size(1), " of ", key.sizes(), " must divide query's heads ", query.size(1));
  TORCH_CHECK(value.sizes() == key.sizes(), "entmax_attention: value: shape ", value.sizes(),
              " differs from key's ", key.sizes());
}

void check_slopes(const at::Tensor& slopes, const at::Tensor& query) {
  TORCH_CHECK(slopes.dim() == 1 && slopes.size(0) == query.size(1),
              "entmax_attention: alibi_slopes: expected [", query.size(1), "] (one per query head), got ",
              slopes.sizes());
  TORCH_CHECK(slopes.scalar_type() == at::kFloat, "entmax_attention: alibi_slopes: expected float32, got ",
              slopes.scalar_type());
  TORCH_CHECK(slopes.device() == query.device(), "entmax_attention: alibi_slopes: on ", slopes.device(),
              ", but query is on ", query.device());
  if (slopes.device().is_cpu()) {  // on a GPU looking at the values would stop the stream
    const at::Tensor values = slopes.contiguous();
    const float* slope = values.const_data_ptr<float>();
    for (int64_t h = 0; h < values.size(0); ++h) {
      TORCH_CHECK(std::isfinite(slope[h]) && slope[h] >= 0, "entmax_attention: alibi_slopes: slope ",
                  slope[h], " of head ", h, " must be finite and at least 0");
    }
  }
}

void check_cu_seqlens(const char* name, const at::Tensor& cu_seqlens, const at::Tensor& query) {
  TORCH_CHECK(cu_seqlens.dim() == 1 && cu_seqlens.size(0) >= 2, "entmax_attention: ", name,
              ": expected [documents + 1] with at least one document, got ", cu_seqlens.sizes());
  TORCH_CHECK(cu_seqlens.scalar_type() == at::kInt, "entmax_attention: ", name, ": expected int32, got ",
              cu_seqlens.scalar_type());
  TORCH_CHECK(cu_seqlens.device() == query.device(), "entmax_attention: ", name, ": on ", cu_seqlens.device(),
              ", but query is on ", query.device());
}

void check_documents(const EntmaxArguments& arguments) {
  TORCH_CHECK(arguments.cu_seqlens_q.has_value() == arguments.cu_seqlens_k.has_value(),
              "entmax_attention: ", arguments.cu_seqlens_q ? "cu_seqlens_k" : "cu_seqlens_q",
              ": missing; give both cu_seqlens or neither");
  if (!arguments.cu_seqlens_q) return;
  TORCH_CHECK(arguments.query.size(0) == 1,
              "entmax_attention: cu_seqlens_q: packed documents need batch 1, got query ",
              arguments.query.sizes());
  check_cu_seqlens("cu_seqlens_q", *arguments.cu_seqlens_q, arguments.query);
  check_cu_seqlens("cu_seqlens_k", *arguments.cu_seqlens_k, arguments.query);
  TORCH_CHECK(arguments.cu_seqlens_q->size(0) == arguments.cu_seqlens_k->size(0),
              "entmax_attention: cu_seqlens_k: ", arguments.cu_seqlens_k->size(0) - 1,
              " documents, but cu_seqlens_q has ", arguments.cu_seqlens_q->size(0) - 1);
}

std::vector<int64_t> read_cu_seqlens(const char* name, const at::Tensor& cu_seqlens, int64_t tokens) {
  const at::Tensor host = cu_seqlens.to(at::kCPU).contiguous();
  const int32_t* offsets = host.const_data_ptr<int32_t>();
  std::vector<int64_t> result(offsets, offsets + host.size(0));
  TORCH_CHECK(result.front() == 0, "entmax_attention: ", name, ": must start with 0, starts with ",
              result.front());
  TORCH_CHECK(result.back() == tokens, "entmax_attention: ", name, ": must end with the number of tokens ",
              tokens, ", ends with ", result.back());
  for (size_t d = 1; d < result.size(); ++d) {
    TORCH_CHECK(result[d - 1] <= result[d], "entmax_attention: ", name, ": must not decrease, but entry ", d,
                " is ", result[d], " after ", result[d - 1]);
  }
  return result;
}

std::vector<EntmaxDocument> read_documents(const EntmaxArguments& arguments, const EntmaxProblem& problem) {
  if (!arguments.cu_seqlens_q) return {{0, problem.q_tokens, 0, problem.k_tokens, 0, 0}};
  const std::vector<int64_t> q = read_cu_seqlens("cu_seqlens_q", *arguments.cu_seqlens_q, problem.q_tokens);
  const std::vector<int64_t> k = read_cu_seqlens("cu_seqlens_k", *arguments.cu_seqlens_k, problem.k_tokens);
  std::vector<EntmaxDocument> documents;
  for (size_t d = 0; d + 1 < q.size(); ++d) {
    documents.push_back({q[d], q[d + 1] - q[d], k[d], k[d + 1] - k[d], 0, 0});
  }
  return documents;
}

}  // namespace

at::ScalarType entmax_compute_type(const at::Tensor& query) {
  return query.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

double entmax_scale(const EntmaxArguments& arguments) {
  return arguments.scale.value_or(1.0 / std::sqrt(static_cast<double>(arguments.query.size(3))));
}

at::Tensor empty_heads_like(const at::Tensor& like, const c10::SymInt& head_dim, at::ScalarType type) {
  const at::TensorOptions options = like.options().dtype(type);
  const c10::SymInt batch = like.sym_size(0), heads = like.sym_size(1), tokens = like.sym_size(2);
  if (like.sym_stride(1) < like.sym_stride(2)) {
    return at::empty_symint({batch, tokens, heads, head_dim}, options).transpose(1, 2);
  }
  return at::empty_symint({batch, heads, tokens, head_dim}, options);
}

at::Tensor empty_heads_like(const at::Tensor& like) {
  return empty_heads_like(like, like.sym_size(3), like.scalar_type());
}

at::Tensor as_heads_like(const at::Tensor& like, const at::Tensor& numbers) {
  const at::Tensor result = empty_heads_like(like);
  if (numbers.scalar_type() == like.scalar_type() && numbers.strides() == result.strides()) return numbers;
  return result.copy_(numbers);
}

void check_entmax_arguments(const EntmaxArguments& arguments) {
  check_shapes(arguments.query, arguments.key, arguments.value);
  TORCH_CHECK(arguments.alpha > 1 && arguments.alpha <= 2, "entmax_attention: alpha: ", std::setprecision(10),
              arguments.alpha, " is outside (1, 2]; softmax (alpha 1) is scaled_dot_product_attention");
  const double scale = entmax_scale(arguments);
  TORCH_CHECK(std::isfinite(scale), "entmax_attention: scale: ", scale, " must be finite");
  if (arguments.alibi_slopes) check_slopes(*arguments.alibi_slopes, arguments.query);
  check_documents(arguments);
}

EntmaxProblem check_entmax(const EntmaxArguments& arguments) {
  check_entmax_arguments(arguments);
  EntmaxProblem problem;
  problem.batch = arguments.query.size(0);
  problem.heads = arguments.query.size(1);
  problem.kv_heads = arguments.key.size(1);
  problem.q_tokens = arguments.query.size(2);
  problem.k_tokens = arguments.key.size(2);
  problem.head_dim = arguments.query.size(3);
  problem.alpha = arguments.alpha;
  problem.scale = entmax_scale(arguments);
  problem.causal = arguments.causal;
  problem.documents = read_documents(arguments, problem);
  for (EntmaxDocument& document : problem.documents) {
    document.query_tile_begin = problem.query_tiles;
    document.key_tile_begin = problem.key_tiles;
    problem.query_tiles += (document.queries + kTile - 1) / kTile;
    problem.key_tiles += (document.keys + kTile - 1) / kTile;
  }
  return problem;
}

void check_entmax_backward(const at::Tensor& grad_out, const at::Tensor& tau,
                           const EntmaxArguments& arguments) {
  const at::Tensor& query = arguments.query;
  check_tensor("grad_out", grad_out, query, "[batch, heads, q_tokens, head_dim]");
  TORCH_CHECK(grad_out.sizes() == query.sizes(), "entmax_attention: grad_out: expected query's shape ",
              query.sizes(), ", got ", grad_out.sizes());
  TORCH_CHECK(tau.sizes() == query.sizes().slice(0, 3),
              "entmax_attention: tau: expected [batch, heads, q_tokens] = ", query.sizes().slice(0, 3),
              ", got ", tau.sizes());
  TORCH_CHECK(tau.scalar_type() == entmax_compute_type(query), "entmax_attention: tau: expected ",
              entmax_compute_type(query), ", got ", tau.scalar_type());
  TORCH_CHECK(tau.device() == query.device(), "entmax_attention: tau: on ", tau.device(),
              ", but query is on ", query.device());
}

}  // namespace asplash::ops
