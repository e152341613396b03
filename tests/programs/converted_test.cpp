// Weights that leave asplash: to Hugging Face and back, and what a script without asplash says of them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/text.h"
#include "command.h"
#include "temporary_folder.h"

namespace asplash::programs {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Arguments = std::vector<std::string>;

constexpr const char* kTargets = "2000";  // no multiple of the contexts: the last window is a shorter one
constexpr const char* kConfig = R"(
train: {steps: 12, tokens_per_step: 1024, evaluate_every: 0, evaluate_tokens: 512, device: cpu}
data: {train: packed/train, validation: packed/valid, context: 64}
optim: {lr: 1.0e-2, warmup_steps: 2}
)";
/// Grouped queries, a head apart from width / heads; with QK-norm and tied embeddings it is a Qwen3.
constexpr const char* kLlama = R"(base: base.yaml
train: {output: llama}
model: {width: 48, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, tied_embeddings: false,
        positions: {kind: rope, rope_theta: 5000}, attention: {function: softmax}}
)";
constexpr const char* kQwen = R"(base: llama.yaml
train: {output: qwen}
model: {tied_embeddings: true, qk_norm: true}
)";
constexpr const char* kEntmax = R"(base: base.yaml
train: {output: entmax}
model: {width: 48, layers: 2, heads: 4, positions: {kind: nape}, attention: {function: entmax, alpha: 1.5}}
)";

class Converted : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    // Threads of libtorch that wait by spinning take the processors from other tests.
    ::setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0);
    folder_ = std::make_unique<TemporaryFolder>();
    const std::string corpus = ASPLASH_SOURCE_DIR "/data/samples/kjv.jsonl";
    succeeds("asplash-data",
             {"tokenizer", "--input", corpus, "--vocab-size", "400", "--output", "tokenizer.model"});
    succeeds("asplash-data", {"pack", "--tokenizer", "tokenizer.model", "--input", corpus, "--output",
                              "packed", "--split", "valid=0.05"});
    const std::vector<std::pair<const char*, const char*>> configs = {
        {"base", kConfig}, {"llama", kLlama}, {"qwen", kQwen}, {"entmax", kEntmax}};
    for (const auto& [name, text] : configs) {
      std::ofstream(path(str(name, ".yaml"))) << text;
      if (text != kConfig) succeeds("asplash-train", {"--config", str(name, ".yaml")});
    }
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static std::string path(const std::string& name) { return folder_->path() + "/" + name; }
  static Outcome succeeds(const std::string& program, const Arguments& arguments) {
    const Outcome outcome = run(program, arguments, folder_->path());
    EXPECT_EQ(outcome.status, 0) << program << " " << join(arguments, " ") << "\n"
                                 << outcome.out << outcome.err;
    return outcome;
  }
  static Json evaluated(const std::string& checkpoint, const std::string& context) {
    succeeds("asplash-eval", {"--checkpoint", checkpoint, "--data", "packed/valid", "--context", context,
                              "--max-tokens", kTargets, "--json", "evaluation.json"});
    return Json::parse(read_file(path("evaluation.json")))["results"][0];
  }
  /// What perplexity.py says of the weights in `folder`; null where there is no Python with torch.
  static Json by_script(const std::string& folder, const std::string& context) {
    const std::string python = ASPLASH_PYTHON_WITH_TORCH;
    if (python.empty()) return nullptr;
    const Outcome outcome =
        run(python,
            {ASPLASH_SOURCE_DIR "/tests/programs/perplexity.py", folder, "packed/valid", context, kTargets},
            folder_->path());
    EXPECT_EQ(outcome.status, 0) << outcome.out << outcome.err;
    return Json::parse(outcome.out);
  }
  static void expect_the_scripts_perplexity(const std::string& checkpoint, const std::string& weights,
                                            const std::string& context) {
    const Json script = by_script(weights, context);
    if (script.is_null()) GTEST_SKIP() << "no Python with torch: the perplexity of a script is not compared";
    const Json ours = evaluated(checkpoint, context);
    EXPECT_EQ(ours["target_tokens"], script["target_tokens"]);
    const double relative = ours["perplexity"].get<double>() / script["perplexity"].get<double>() - 1;
    RecordProperty("relative_difference", str(relative));
    EXPECT_LT(std::abs(relative), 1e-4) << ours << "\n" << script;
    EXPECT_LT(ours["perplexity"].get<double>(), 300) << "it has learned nothing that could be wrong";
  }

  static std::unique_ptr<TemporaryFolder> folder_;
};
std::unique_ptr<TemporaryFolder> Converted::folder_;

TEST_F(Converted, PerplexityOfALlamaIsAnIndependentScripts) {
  succeeds("asplash-convert", {"to-hf", "--checkpoint", "llama", "--output", "llama_hf"});
  expect_the_scripts_perplexity("llama", "llama_hf", "64");
}

TEST_F(Converted, PerplexityOfAQwen3IsAnIndependentScripts) {
  succeeds("asplash-convert", {"to-hf", "--checkpoint", "qwen", "--output", "qwen_hf"});
  EXPECT_EQ(Json::parse(read_file(path("qwen_hf/config.json")))["architectures"][0], "Qwen3ForCausalLM");
  expect_the_scripts_perplexity("qwen", "qwen_hf", "100");
}

TEST_F(Converted, PerplexityOfEntmaxIsAnIndependentScripts) {
  expect_the_scripts_perplexity("entmax", "entmax/checkpoints/step_00000012", "64");
}

TEST_F(Converted, ThereAndBackIsTheSame) {
  for (const std::string name : {"llama", "qwen"}) {
    const std::string away = name + "_away", back = name + "_back";
    succeeds("asplash-convert", {"to-hf", "--checkpoint", name, "--output", away});
    const Outcome outcome = succeeds("asplash-convert", {"from-hf", "--input", away, "--output", back});
    EXPECT_NE(outcome.out.find("context 64, vocabulary 400, tokenizer 400 pieces"), std::string::npos)
        << outcome.out;
    const std::string before = name + "/checkpoints/step_00000012/";
    EXPECT_EQ(hash_file(path(back + "/tokenizer.model")), hash_file(path(before + "tokenizer.model")));
    EXPECT_EQ(evaluated(back, "64")["perplexity"], evaluated(name, "64")["perplexity"]);
    const auto text = [](const std::string& checkpoint) {
      return succeeds("asplash-generate", {"--checkpoint", checkpoint, "--prompt", "And God", "--max-tokens",
                                           "20", "--temperature", "0"})
          .out;
    };
    EXPECT_EQ(text(back), text(name));
    // Once more: the same bytes.
    succeeds("asplash-convert", {"to-hf", "--checkpoint", back, "--output", away + "2"});
    for (const char* file : {"model.safetensors", "config.json", "tokenizer.model", "tokenizer_config.json"})
      EXPECT_EQ(read_file(path(away + "2/" + file)), read_file(path(away + "/" + file))) << file;
  }
}

TEST_F(Converted, NarrowWeightsStayClose) {
  const double before = evaluated("llama", "64")["perplexity"];
  for (const std::string dtype : {"bfloat16", "float16"}) {
    const std::string away = "llama_" + dtype;
    succeeds("asplash-convert", {"to-hf", "--checkpoint", "llama", "--output", away, "--dtype", dtype});
    EXPECT_LT(
        fs::file_size(path(away + "/model.safetensors")),
        0.55 * static_cast<double>(fs::file_size(path("llama/checkpoints/step_00000012/model.safetensors"))));
    succeeds("asplash-convert", {"from-hf", "--input", away, "--output", away + "_back"});
    EXPECT_NEAR(evaluated(away + "_back", "64")["perplexity"].get<double>() / before, 1, 2e-2) << dtype;
  }
}

TEST_F(Converted, APublicCheckpointIsTrainedOn) {
  succeeds("asplash-convert", {"to-hf", "--checkpoint", "llama", "--output", "public"});
  succeeds("asplash-convert", {"from-hf", "--input", "public", "--output", "start"});
  succeeds("asplash-data",
           {"pack", "--tokenizer", "start/tokenizer.model", "--input",
            ASPLASH_SOURCE_DIR "/data/samples/kjv.jsonl", "--output", "more", "--name", "train"});
  std::ofstream(path("go_on.yaml")) << R"(
base: start/config.yaml
train: {initial_weights: start, output: on, steps: 5, tokens_per_step: 1024, device: cpu}
data: {train: more/train, context: 64}
optim: {lr: 1.0e-3, warmup_steps: 1}
)";
  for (const std::string function : {"softmax", "entmax"}) {
    succeeds("asplash-train", {"--config", "go_on.yaml", "--set", "train.output=on_" + function, "--set",
                               "model.attention.function=" + function});
    std::ifstream metrics(path("on_" + function + "/metrics.jsonl"));
    std::string first;
    std::getline(metrics, first);
    const double begin = Json::parse(first)["loss"],
                 reached = std::log(evaluated("llama", "64")["perplexity"].get<double>());
    // Entmax with softmax's weights computes something else, though far from chance.
    EXPECT_NEAR(begin, reached, function == "softmax" ? 0.3 : 1.0) << std::log(400) << " would be chance";
  }
}

}  // namespace
}  // namespace asplash::programs
