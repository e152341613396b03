// Schemas, autograd and dispatch of the operators asplash::entmax_attention*.

#include "asplash/ops/entmax_attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <initializer_list>
#include <utility>

#include "asplash/ops/entmax_problem.h"
#ifdef ASPLASH_HAVE_CUDA
#include "asplash/ops/entmax_attention_kernels.h"
#endif

namespace asplash::ops {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
/// out, tau, mean_value, weight_sum, tile_mask, support, statistics
using ForwardResult =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using BackwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

using ForwardSchema = ForwardResult(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                    double alpha, std::optional<double> scale, bool causal,
                                    const OptionalTensor& alibi_slopes, const OptionalTensor& cu_seqlens_q,
                                    const OptionalTensor& cu_seqlens_k, std::string_view implementation,
                                    bool with_statistics, bool for_backward);
using BackwardSchema = BackwardResult(const at::Tensor& grad_out, const at::Tensor& query,
                                      const at::Tensor& key, const at::Tensor& value, const at::Tensor& tau,
                                      const at::Tensor& mean_value, const at::Tensor& weight_sum,
                                      const at::Tensor& tile_mask, const at::Tensor& support, double alpha,
                                      std::optional<double> scale, bool causal,
                                      const OptionalTensor& alibi_slopes, const OptionalTensor& cu_seqlens_q,
                                      const OptionalTensor& cu_seqlens_k, std::string_view implementation);

const c10::TypedOperatorHandle<ForwardSchema>& forward_operator() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("asplash::entmax_attention_forward", "")
                                 .typed<ForwardSchema>();
  return handle;
}

const c10::TypedOperatorHandle<BackwardSchema>& backward_operator() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("asplash::entmax_attention_backward", "")
                                 .typed<BackwardSchema>();
  return handle;
}

OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

// ---- Which implementation serves a call

bool wants_reference(std::string_view implementation) {
  TORCH_CHECK(implementation == "auto" || implementation == "reference",
              "entmax_attention: implementation: '", implementation, "' is neither 'auto' nor 'reference'");
  return implementation == "reference";
}

/// Whether the CUDA kernels serve the call. Of query it looks at device, dtype and head_dim alone, so that
/// sizes which a compiler leaves open stay open.
bool kernels_serve(const at::Tensor& query, std::string_view implementation) {
  if (wants_reference(implementation) || !query.is_cuda() || query.scalar_type() == at::kDouble) return false;
#ifdef ASPLASH_HAVE_CUDA
  if (query.dim() != 4 || !at::isFloatingType(query.scalar_type())) return false;  // refused by name later
  const int64_t head_dim = query.sym_size(3).guard_int(__FILE__, __LINE__);
  TORCH_CHECK(has_entmax_kernels(head_dim), "entmax_attention: query: head_dim ", head_dim,
              " has no CUDA kernels, there are some for ", entmax_kernel_sizes(),
              "; implementation 'reference' takes any");
  if (entmax_kernels_run_on(query, head_dim)) return true;
  TORCH_WARN_ONCE(
      "entmax_attention: the GPU is too old for the CUDA kernels, which need compute capability "
      "8.0; tensor operations serve instead (slow)");
#endif
  return false;
}

// ---- Autograd

class EntmaxAttention : public torch::autograd::Function<EntmaxAttention> {
 public:
  struct Options {
    double alpha;
    std::optional<double> scale;
    bool causal;
    std::string_view implementation;
    bool with_statistics;
    bool for_backward;
  };

  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                const at::Tensor& query, const at::Tensor& key,
                                                const at::Tensor& value, const OptionalTensor& alibi_slopes,
                                                const OptionalTensor& cu_seqlens_q,
                                                const OptionalTensor& cu_seqlens_k, const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [out, tau, mean_value, weight_sum, tile_mask, support, statistics] = forward_operator().call(
        query, key, value, options.alpha, options.scale, options.causal, alibi_slopes, cu_seqlens_q,
        cu_seqlens_k, options.implementation, options.with_statistics, options.for_backward);
    context->save_for_backward({query, key, value, tau, mean_value, weight_sum, tile_mask, support,
                                alibi_slopes.value_or(at::Tensor()), cu_seqlens_q.value_or(at::Tensor()),
                                cu_seqlens_k.value_or(at::Tensor())});
    context->saved_data["alpha"] = options.alpha;
    context->saved_data["scale"] = options.scale;
    context->saved_data["causal"] = options.causal;
    context->saved_data["implementation"] = std::string(options.implementation);
    context->mark_non_differentiable({tau, mean_value, weight_sum, tile_mask, support, statistics});
    context->set_materialize_grads(false);
    return {out, tau, mean_value, weight_sum, tile_mask, support, statistics};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    torch::autograd::variable_list result(7);
    if (!grads[0].defined()) return result;
    const auto saved = context->get_saved_variables();
    std::tie(result[0], result[1], result[2]) = backward_operator().call(
        grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], saved[6], saved[7],
        context->saved_data["alpha"].toDouble(), context->saved_data["scale"].toOptional<double>(),
        context->saved_data["causal"].toBool(), optional(saved[8]), optional(saved[9]), optional(saved[10]),
        context->saved_data["implementation"].toStringView());
    return result;
  }
};

ForwardResult forward_autograd(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                               double alpha, std::optional<double> scale, bool causal,
                               const OptionalTensor& alibi_slopes, const OptionalTensor& cu_seqlens_q,
                               const OptionalTensor& cu_seqlens_k, std::string_view implementation,
                               bool with_statistics, bool for_backward) {
  const bool differentiated =
      at::GradMode::is_enabled() && (query.requires_grad() || key.requires_grad() || value.requires_grad());
  const auto result = EntmaxAttention::apply(
      query, key, value, alibi_slopes, cu_seqlens_q, cu_seqlens_k,
      EntmaxAttention::Options{alpha, scale, causal, implementation, with_statistics,
                               for_backward || (differentiated && kernels_serve(query, implementation))});
  return {result[0], result[1], result[2], result[3], result[4], result[5], result[6]};
}

// ---- Implementations of a device

ForwardResult returned(const EntmaxForward& result) {
  const auto given = [&](const at::Tensor& tensor, at::ScalarType type) {
    return tensor.defined() ? tensor : at::empty({0}, result.out.options().dtype(type));
  };
  return {result.out,
          result.tau,
          given(result.means.mean_value, result.out.scalar_type()),
          given(result.means.weight_sum, at::kFloat),
          given(result.means.tile_mask, at::kInt),
          given(result.means.support, at::kInt),
          result.statistics};
}

ForwardResult forward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double alpha,
                      std::optional<double> scale, bool causal, const OptionalTensor& alibi_slopes,
                      const OptionalTensor& cu_seqlens_q, const OptionalTensor& cu_seqlens_k,
                      std::string_view implementation, bool with_statistics, bool for_backward) {
  const EntmaxArguments arguments{query,  key,          value,        alpha,       scale,
                                  causal, alibi_slopes, cu_seqlens_q, cu_seqlens_k};
#ifdef ASPLASH_HAVE_CUDA
  if (kernels_serve(query, implementation)) {
    return returned(entmax_forward_kernels(arguments, with_statistics, for_backward));
  }
#endif
  TORCH_CHECK(!for_backward,
              "entmax_attention: for_backward: only the backward of the CUDA kernels needs it");
  const bool tensor_operations = wants_reference(implementation) || !query.is_cpu();
  return returned(tensor_operations ? entmax_forward_tensor(arguments, with_statistics)
                                    : entmax_forward_cpu(arguments, with_statistics));
}

BackwardResult backward(const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
                        const at::Tensor& value, const at::Tensor& tau,
                        [[maybe_unused]] const at::Tensor& mean_value,
                        [[maybe_unused]] const at::Tensor& weight_sum,
                        [[maybe_unused]] const at::Tensor& tile_mask,
                        [[maybe_unused]] const at::Tensor& support, double alpha, std::optional<double> scale,
                        bool causal, const OptionalTensor& alibi_slopes, const OptionalTensor& cu_seqlens_q,
                        const OptionalTensor& cu_seqlens_k, std::string_view implementation) {
  const EntmaxArguments arguments{query,  key,          value,        alpha,       scale,
                                  causal, alibi_slopes, cu_seqlens_q, cu_seqlens_k};
  const auto result = [&] {
#ifdef ASPLASH_HAVE_CUDA
    if (kernels_serve(query, implementation)) {
      return entmax_backward_kernels(grad_out, tau, {mean_value, weight_sum, tile_mask, support}, arguments);
    }
#endif
    const bool tensor_operations = wants_reference(implementation) || !query.is_cpu();
    return tensor_operations ? entmax_backward_tensor(grad_out, tau, arguments)
                             : entmax_backward_cpu(grad_out, tau, arguments);
  }();
  return {result.query, result.key, result.value};
}

// ---- Fake tensors: sizes, dtypes and strides of what the above return, for torch.compile. What is refused
// for its sizes is refused when it runs; here sizes may be symbolic.

/// One tensor without memory sends the call here, whatever the others are: these must have none, either.
void check_fake(std::initializer_list<std::pair<const char*, OptionalTensor>> tensors) {
  for (const auto& [name, tensor] : tensors) {
    TORCH_CHECK(!tensor || tensor->is_meta(), "entmax_attention: ", name, ": on ", tensor->device(),
                ", where others are on the meta device");
  }
}

ForwardResult forward_meta(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           double /*alpha*/, std::optional<double> /*scale*/, bool /*causal*/,
                           const OptionalTensor& alibi_slopes, const OptionalTensor& cu_seqlens_q,
                           const OptionalTensor& cu_seqlens_k, std::string_view implementation,
                           bool with_statistics, bool for_backward) {
  wants_reference(implementation);
  check_fake({{"query", query},
              {"key", key},
              {"value", value},
              {"alibi_slopes", alibi_slopes},
              {"cu_seqlens_q", cu_seqlens_q},
              {"cu_seqlens_k", cu_seqlens_k}});
  TORCH_CHECK(query.dim() == 4 && key.dim() == 4, "entmax_attention: query, key: expected 4 dimensions, got ",
              query.dim(), " and ", key.dim());
  const at::TensorOptions options = query.options();
  const c10::SymInt batch = query.sym_size(0), heads = query.sym_size(1), q_tokens = query.sym_size(2);
  const at::Tensor out = empty_heads_like(query);
  const at::Tensor tau =
      at::empty_symint({batch, heads, q_tokens}, options.dtype(entmax_compute_type(query)));
  const at::Tensor statistics =
      at::empty({with_statistics ? kEntmaxStatistics : 0}, options.dtype(at::kDouble));
  if (!for_backward) {
    return {out,
            tau,
            at::empty({0}, options),
            at::empty({0}, options.dtype(at::kFloat)),
            at::empty({0}, options.dtype(at::kInt)),
            at::empty({0}, options.dtype(at::kInt)),
            statistics};
  }
  // EntmaxAttentionShape::row_tiles, mask_words and support_words
  const c10::SymInt documents = cu_seqlens_q ? cu_seqlens_q->sym_size(0) - 1 : c10::SymInt(0);
  const c10::SymInt row_tiles = (q_tokens + 63) / 64 + documents;
  const c10::SymInt k_tokens = key.sym_size(2), key_tiles = (k_tokens + 63) / 64;
  c10::SymInt words = (key_tiles + 31) / 32, support_words = 0;
  if (query.scalar_type() != at::kFloat) {
    // row_bytes: 8, 4, 2, 2, 1, ... for the 32768 tokens begun. A comparison would be a guard on the length.
    const c10::SymInt begun = ((k_tokens + 32767) / 32768).max(1);
    const auto at_most = [&](int64_t limit) { return (limit / begun).min(1); };  // 1 if begun <= limit
    const c10::SymInt row_bytes = 1 + at_most(4) + 2 * at_most(2) + 4 * at_most(1);
    words = (words + 1) / 2 * 2 + (key_tiles * row_bytes + 7) / 8 * 2;
    support_words = q_tokens * (1 + k_tokens.min(kEntmaxSupport)) + kEntmaxSupportOfHead;
  }
  return {out,
          tau,
          at::empty_symint(query.sym_sizes(), options),
          at::empty_symint({batch, heads, q_tokens}, options.dtype(at::kFloat)),
          at::empty_symint({batch, heads, row_tiles, words}, options.dtype(at::kInt)),
          at::empty_symint({batch, heads, support_words}, options.dtype(at::kInt)),
          statistics};
}

BackwardResult backward_meta(const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
                             const at::Tensor& value, const at::Tensor& tau, const at::Tensor& mean_value,
                             const at::Tensor& weight_sum, const at::Tensor& tile_mask,
                             const at::Tensor& support, double /*alpha*/, std::optional<double> /*scale*/,
                             bool /*causal*/, const OptionalTensor& alibi_slopes,
                             const OptionalTensor& cu_seqlens_q, const OptionalTensor& cu_seqlens_k,
                             std::string_view /*implementation*/) {
  check_fake({{"grad_out", grad_out},
              {"query", query},
              {"key", key},
              {"value", value},
              {"tau", tau},
              {"mean_value", mean_value},
              {"weight_sum", weight_sum},
              {"tile_mask", tile_mask},
              {"support", support},
              {"alibi_slopes", alibi_slopes},
              {"cu_seqlens_q", cu_seqlens_q},
              {"cu_seqlens_k", cu_seqlens_k}});
  return {empty_heads_like(query), empty_heads_like(key), empty_heads_like(value)};
}

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double alpha,
                     std::optional<double> scale, bool causal, const OptionalTensor& alibi_slopes,
                     const OptionalTensor& cu_seqlens_q, const OptionalTensor& cu_seqlens_k,
                     std::string_view implementation) {
  return std::get<0>(forward_operator().call(query, key, value, alpha, scale, causal, alibi_slopes,
                                             cu_seqlens_q, cu_seqlens_k, implementation, false, false));
}

}  // namespace

at::Tensor entmax_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const EntmaxOptions& options, const at::Tensor* alibi_slopes,
                            const at::Tensor* cu_seqlens_q, const at::Tensor* cu_seqlens_k,
                            at::Tensor* statistics) {
  const auto given = [](const at::Tensor* tensor) { return tensor ? OptionalTensor(*tensor) : std::nullopt; };
  const auto result = forward_operator().call(query, key, value, options.alpha, options.scale, options.causal,
                                              given(alibi_slopes), given(cu_seqlens_q), given(cu_seqlens_k),
                                              name_of(options.implementation), statistics != nullptr, false);
  if (statistics) *statistics = std::get<6>(result);
  return std::get<0>(result);
}

#ifndef ASPLASH_HAVE_CUDA
bool has_entmax_kernels(int64_t /*head_dim*/) { return true; }
std::string entmax_kernel_sizes() { return "any"; }
#endif

TORCH_LIBRARY(asplash, library) {
  library.def(
      "entmax_attention(Tensor query, Tensor key, Tensor value, float alpha=1.5, float? scale=None, "
      "bool causal=True, Tensor? alibi_slopes=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, "
      "str implementation='auto') -> Tensor");
  library.def(
      "entmax_attention_forward(Tensor query, Tensor key, Tensor value, float alpha=1.5, float? scale=None, "
      "bool causal=True, Tensor? alibi_slopes=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, "
      "str implementation='auto', bool with_statistics=False, bool for_backward=False) "
      "-> (Tensor out, Tensor tau, Tensor mean_value, Tensor weight_sum, Tensor tile_mask, Tensor "
      "support, Tensor statistics)");
  library.def(
      "entmax_attention_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor tau, "
      "Tensor mean_value, Tensor weight_sum, Tensor tile_mask, Tensor support, float alpha=1.5, "
      "float? scale=None, "
      "bool causal=True, Tensor? alibi_slopes=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, "
      "str implementation='auto') -> (Tensor grad_query, Tensor grad_key, Tensor grad_value)");
  library.impl("entmax_attention",
               torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, TORCH_FN(attention)));
}

TORCH_LIBRARY_IMPL(asplash, CPU, library) {
  library.impl("entmax_attention_forward", TORCH_FN(forward));
  library.impl("entmax_attention_backward", TORCH_FN(backward));
}

TORCH_LIBRARY_IMPL(asplash, CUDA, library) {
  library.impl("entmax_attention_forward", TORCH_FN(forward));
  library.impl("entmax_attention_backward", TORCH_FN(backward));
}

TORCH_LIBRARY_IMPL(asplash, Meta, library) {
  library.impl("entmax_attention_forward", TORCH_FN(forward_meta));
  library.impl("entmax_attention_backward", TORCH_FN(backward_meta));
}

TORCH_LIBRARY_IMPL(asplash, Autograd, library) {
  library.impl("entmax_attention_forward", TORCH_FN(forward_autograd));
  library.impl("entmax_attention_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace asplash::ops
