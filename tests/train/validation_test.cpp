#include "asplash/train/validation.h"

#include <gtest/gtest.h>

#include "asplash/model/language_model.h"
#include "asplash/train/setup.h"
#include "small_run.h"

namespace asplash::train {
namespace {

ValidationResult validate_with(const SmallRun& run, int64_t micro_batch, const std::string& documents) {
  const TrainOptions options =
      run.options({str("train.micro_batch=", micro_batch), str("train.tokens_per_step=", 32 * micro_batch),
                   "train.evaluate_tokens=352", "data.documents=" + documents});
  const Setup setup = prepare(options, load_config(options));
  const auto model = model::make_decoder(setup.config.model, "cpu", c10::kFloat, /*seed=*/3);
  return validate(*model, *setup.validation, setup.config, setup.device);
}

/// 11 windows of 32 tokens: in one batch, in whole batches, and with 1, 2 or 3 windows left for the last.
TEST(Validation, DoesNotDependOnTheMicroBatch) {
  const SmallRun run;
  for (const char* documents : {"stream", "packed"}) {
    const ValidationResult one = validate_with(run, 1, documents);
    EXPECT_GT(one.loss, 1);
    for (const int64_t micro_batch : {2, 3, 4, 5, 8, 11, 16}) {
      const ValidationResult many = validate_with(run, micro_batch, documents);
      EXPECT_EQ(many.target_tokens, one.target_tokens) << documents << ", micro_batch " << micro_batch;
      EXPECT_NEAR(many.loss, one.loss, 1e-6) << documents << ", micro_batch " << micro_batch;
    }
  }
  EXPECT_EQ(validate_with(run, 4, "stream").target_tokens, 11 * 32);
}

}  // namespace
}  // namespace asplash::train
