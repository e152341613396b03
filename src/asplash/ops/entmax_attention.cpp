// Schemas, autograd and dispatch of the operators asplash::entmax_attention*.

#include "asplash/ops/entmax_attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "asplash/ops/entmax_problem.h"

namespace asplash::ops {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using ForwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using BackwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

using ForwardSchema = ForwardResult(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                    double alpha, std::optional<double> scale, bool causal,
                                    const OptionalTensor& alibi_slopes, const OptionalTensor& cu_seqlens_q,
                                    const OptionalTensor& cu_seqlens_k, bool with_statistics);
using BackwardSchema = BackwardResult(const at::Tensor& grad_out, const at::Tensor& query,
                                      const at::Tensor& key, const at::Tensor& value, const at::Tensor& tau,
                                      double alpha, std::optional<double> scale, bool causal,
                                      const OptionalTensor& alibi_slopes, const OptionalTensor& cu_seqlens_q,
                                      const OptionalTensor& cu_seqlens_k);

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

class EntmaxAttention : public torch::autograd::Function<EntmaxAttention> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                const at::Tensor& query, const at::Tensor& key,
                                                const at::Tensor& value, double alpha,
                                                std::optional<double> scale, bool causal,
                                                const OptionalTensor& alibi_slopes,
                                                const OptionalTensor& cu_seqlens_q,
                                                const OptionalTensor& cu_seqlens_k, bool with_statistics) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [out, tau, statistics] = forward_operator().call(
        query, key, value, alpha, scale, causal, alibi_slopes, cu_seqlens_q, cu_seqlens_k, with_statistics);
    context->save_for_backward({query, key, value, tau, alibi_slopes.value_or(at::Tensor()),
                                cu_seqlens_q.value_or(at::Tensor()), cu_seqlens_k.value_or(at::Tensor())});
    context->saved_data["alpha"] = alpha;
    context->saved_data["scale"] = scale;
    context->saved_data["causal"] = causal;
    context->mark_non_differentiable({tau, statistics});
    context->set_materialize_grads(false);
    return {out, tau, statistics};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    torch::autograd::variable_list result(10);
    if (!grads[0].defined()) return result;
    const auto saved = context->get_saved_variables();
    std::tie(result[0], result[1], result[2]) = backward_operator().call(
        grads[0], saved[0], saved[1], saved[2], saved[3], context->saved_data["alpha"].toDouble(),
        context->saved_data["scale"].toOptional<double>(), context->saved_data["causal"].toBool(),
        optional(saved[4]), optional(saved[5]), optional(saved[6]));
    return result;
  }
};

ForwardResult forward_autograd(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                               double alpha, std::optional<double> scale, bool causal,
                               const OptionalTensor& alibi_slopes, const OptionalTensor& cu_seqlens_q,
                               const OptionalTensor& cu_seqlens_k, bool with_statistics) {
  const auto result = EntmaxAttention::apply(query, key, value, alpha, scale, causal, alibi_slopes,
                                             cu_seqlens_q, cu_seqlens_k, with_statistics);
  return {result[0], result[1], result[2]};
}

using ForwardImplementation = EntmaxForward(const EntmaxArguments&, bool);
using BackwardImplementation = EntmaxBackward(const at::Tensor&, const at::Tensor&, const EntmaxArguments&);

template <ForwardImplementation* implementation>
ForwardResult forward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double alpha,
                      std::optional<double> scale, bool causal, const OptionalTensor& alibi_slopes,
                      const OptionalTensor& cu_seqlens_q, const OptionalTensor& cu_seqlens_k,
                      bool with_statistics) {
  EntmaxForward result = implementation(
      {query, key, value, alpha, scale, causal, alibi_slopes, cu_seqlens_q, cu_seqlens_k}, with_statistics);
  return {std::move(result.out), std::move(result.tau), std::move(result.statistics)};
}

template <BackwardImplementation* implementation>
BackwardResult backward(const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
                        const at::Tensor& value, const at::Tensor& tau, double alpha,
                        std::optional<double> scale, bool causal, const OptionalTensor& alibi_slopes,
                        const OptionalTensor& cu_seqlens_q, const OptionalTensor& cu_seqlens_k) {
  EntmaxBackward result = implementation(
      grad_out, tau, {query, key, value, alpha, scale, causal, alibi_slopes, cu_seqlens_q, cu_seqlens_k});
  return {std::move(result.query), std::move(result.key), std::move(result.value)};
}

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double alpha,
                     std::optional<double> scale, bool causal, const OptionalTensor& alibi_slopes,
                     const OptionalTensor& cu_seqlens_q, const OptionalTensor& cu_seqlens_k) {
  return std::get<0>(forward_operator().call(query, key, value, alpha, scale, causal, alibi_slopes,
                                             cu_seqlens_q, cu_seqlens_k, false));
}

}  // namespace

at::Tensor entmax_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const EntmaxOptions& options, const at::Tensor* alibi_slopes,
                            const at::Tensor* cu_seqlens_q, const at::Tensor* cu_seqlens_k,
                            at::Tensor* statistics) {
  const auto given = [](const at::Tensor* tensor) { return tensor ? OptionalTensor(*tensor) : std::nullopt; };
  auto [out, tau, counts] = forward_operator().call(query, key, value, options.alpha, options.scale,
                                                    options.causal, given(alibi_slopes), given(cu_seqlens_q),
                                                    given(cu_seqlens_k), statistics != nullptr);
  if (statistics) *statistics = counts;
  return out;
}

TORCH_LIBRARY(asplash, library) {
  library.def(
      "entmax_attention(Tensor query, Tensor key, Tensor value, float alpha=1.5, float? scale=None, "
      "bool causal=True, Tensor? alibi_slopes=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None) "
      "-> Tensor");
  library.def(
      "entmax_attention_forward(Tensor query, Tensor key, Tensor value, float alpha=1.5, float? scale=None, "
      "bool causal=True, Tensor? alibi_slopes=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, "
      "bool with_statistics=False) -> (Tensor out, Tensor tau, Tensor statistics)");
  library.def(
      "entmax_attention_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor tau, "
      "float alpha=1.5, float? scale=None, bool causal=True, Tensor? alibi_slopes=None, "
      "Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None) "
      "-> (Tensor grad_query, Tensor grad_key, Tensor grad_value)");
  library.impl("entmax_attention",
               torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, TORCH_FN(attention)));
}

TORCH_LIBRARY_IMPL(asplash, CPU, library) {
  library.impl("entmax_attention_forward", TORCH_FN(forward<entmax_forward_cpu>));
  library.impl("entmax_attention_backward", TORCH_FN(backward<entmax_backward_cpu>));
}

TORCH_LIBRARY_IMPL(asplash, CUDA, library) {
  library.impl("entmax_attention_forward", TORCH_FN(forward<entmax_forward_tensor>));
  library.impl("entmax_attention_backward", TORCH_FN(backward<entmax_backward_tensor>));
}

TORCH_LIBRARY_IMPL(asplash, Autograd, library) {
  library.impl("entmax_attention_forward", TORCH_FN(forward_autograd));
  library.impl("entmax_attention_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace asplash::ops
