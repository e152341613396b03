#include "asplash/eval/first_logits.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "asplash/checkpoint/safetensors.h"
#include "asplash/model/language_model.h"

namespace asplash::eval {

void write_first_logits(const std::string& path, model::LanguageModel& model, const TokenStream& stream,
                        const PerplexityOptions& options) {
  const at::NoGradGuard no_grad;
  const int64_t context = *std::min_element(options.contexts.begin(), options.contexts.end());
  const at::Tensor tokens = at::empty({context}, at::kInt);
  stream.read(0, context, tokens.mutable_data_ptr<int32_t>());
  model::ModelInput input;
  input.tokens = tokens.view({1, context}).to(at::Device(options.device));
  if (options.packed) {
    input.cu_seqlens.push_back(0);
    for (const int64_t begin : stream.document_begins(1, context))
      input.cu_seqlens.push_back(static_cast<int32_t>(begin));
    input.cu_seqlens.push_back(static_cast<int32_t>(context));
  }
  const at::Tensor logits = model.logits(input)[0].to(at::kCPU, at::kFloat);
  checkpoint::write_safetensors_atomically(path, {{"tokens", tokens}, {"logits", logits}}, {});
}

}  // namespace asplash::eval
