// The whole path through the real programs: tokenizer, pack, inspect, train, evaluate, generate.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "asplash/base/files.h"
#include "asplash/base/text.h"
#include "command.h"
#include "temporary_folder.h"

namespace asplash::programs {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Arguments = std::vector<std::string>;

constexpr int kSteps = 30;
constexpr int kVocabulary = 512;
constexpr const char* kCorpus = ASPLASH_SOURCE_DIR "/data/samples/kjv.jsonl";

constexpr const char* kConfig = R"(
train:
  output: run
  steps: 30
  tokens_per_step: 2048
  evaluate_every: 15
  evaluate_tokens: 2048
  checkpoint_every: 20
  device: cpu
data:
  train: packed/train
  validation: packed/valid
  context: 128
model:
  width: 64
  layers: 2
  heads: 4
  head_dim: 32
  positions:
    kind: nape
  attention:
    function: entmax
    alpha: 1.5
optim:
  lr: 1.0e-3
  warmup_steps: 5
)";

int lines_in(const std::string& text) { return static_cast<int>(std::count(text.begin(), text.end(), '\n')); }

/// Every file below the folder with its hash: shows whether a program wrote anything.
std::vector<std::string> files_below(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      files.push_back(entry.path().string() + " " + hash_file(entry.path().string()));
  std::sort(files.begin(), files.end());
  return files;
}

/// Prepares data and a trained run once; the tests look at what came out and go on from there.
class Programs : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryFolder>();
    std::ofstream(path("config.yaml")) << kConfig;
    succeeds("asplash-data", {"tokenizer", "--input", kCorpus, "--vocab-size", std::to_string(kVocabulary),
                              "--model", "bpe", "--output", "tokenizer.model"});
    succeeds("asplash-data", {"pack", "--tokenizer", "tokenizer.model", "--input", kCorpus, "--output",
                              "packed", "--split", "valid=0.15"});
    training_ = succeeds("asplash-train", {"--config", "config.yaml", "--set", "optim.lr=4e-3"});
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static std::string path(const std::string& name) { return folder_->path() + "/" + name; }
  static Outcome call(const std::string& program, const Arguments& arguments, const std::string& input = "") {
    return run(program, arguments, folder_->path(), input);
  }
  static Outcome succeeds(const std::string& program, const Arguments& arguments) {
    const Outcome outcome = call(program, arguments);
    EXPECT_EQ(outcome.status, 0) << program << " " << join(arguments, " ") << "\n"
                                 << outcome.out << outcome.err;
    return outcome;
  }
  /// Ends with status 1, one line "error: ..." that holds all `parts`, nothing on stdout, no file changed.
  static void fails(const std::string& program, const Arguments& arguments,
                    const std::vector<std::string>& parts) {
    const auto before = files_below(folder_->path());
    const Outcome outcome = call(program, arguments);
    const std::string said = program + " " + join(arguments, " ") + "\n" + outcome.out + outcome.err;
    EXPECT_EQ(outcome.status, 1) << said;
    EXPECT_EQ(outcome.out, "") << said;
    EXPECT_EQ(outcome.err.rfind("error: ", 0), 0U) << said;
    EXPECT_EQ(lines_in(outcome.err), 1) << said;
    for (const std::string& part : parts)
      EXPECT_NE(outcome.err.find(part), std::string::npos) << part << "\n" << said;
    EXPECT_EQ(files_below(folder_->path()), before) << said;
  }
  static std::vector<Json> json_lines(const std::string& name) {
    std::vector<Json> lines;
    std::ifstream file(path(name));
    for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
    return lines;
  }

  static std::unique_ptr<TemporaryFolder> folder_;
  static Outcome training_;
};
std::unique_ptr<TemporaryFolder> Programs::folder_;
Outcome Programs::training_;

TEST_F(Programs, PackSplitsByDocumentAndInspectReadsItBack) {
  const Json train = Json::parse(read_file(path("packed/train/manifest.json")));
  const Json valid = Json::parse(read_file(path("packed/valid/manifest.json")));
  EXPECT_EQ(train["documents"].get<int>() + valid["documents"].get<int>(), 50);
  EXPECT_GE(valid["documents"].get<int>(), 1);
  EXPECT_EQ(train["tokenizer"]["vocab_size"], kVocabulary);
  const Outcome inspect = succeeds("asplash-data", {"inspect", "packed", "--verify", "--samples", "1"});
  EXPECT_NE(inspect.out.find("valid"), std::string::npos);
  EXPECT_NE(inspect.out.find("train"), std::string::npos);
}

TEST_F(Programs, TrainingLearnsAndSaysHow) {
  std::vector<Json> steps;
  std::vector<Json> evaluations;
  for (const Json& line : json_lines("run/metrics.jsonl"))
    (line.contains("event") ? evaluations : steps).push_back(line);
  ASSERT_EQ(steps.size(), static_cast<size_t>(kSteps));
  for (int i = 0; i < kSteps; ++i) {
    const Json& line = steps[static_cast<size_t>(i)];
    EXPECT_EQ(line["step"], i + 1);
    for (const char* key :
         {"loss", "grad_norm", "lr", "tokens", "tokens_per_second", "step_ms", "data_wait_ms"})
      EXPECT_TRUE(line.contains(key) && line[key].is_number()) << key << " in " << line;
  }
  EXPECT_EQ(steps.back()["tokens"], kSteps * 2048);
  EXPECT_NEAR(steps.front()["loss"], std::log(kVocabulary), 0.5);
  EXPECT_LT(steps.back()["loss"].get<double>(), steps.front()["loss"].get<double>() - 1);
  ASSERT_GE(evaluations.size(), 2U);
  EXPECT_LT(evaluations.back()["loss"], evaluations.front()["loss"]);
  EXPECT_NE(read_file(path("run/config.yaml")).find("0.004"), std::string::npos)
      << "--set is in the resolved file";
  EXPECT_TRUE(fs::exists(path("run/checkpoints/step_00000030/manifest.json")));
}

TEST_F(Programs, DryRunAndPrintConfigWriteNothing) {
  const auto before = files_below(folder_->path());
  const Outcome dry =
      succeeds("asplash-train", {"--config", "config.yaml", "--set", "train.output=other", "--dry-run"});
  EXPECT_NE((dry.out + dry.err).find("embeddings"), std::string::npos);
  const Outcome printed = succeeds("asplash-train", {"--config", "config.yaml", "--print-config"});
  EXPECT_NE(printed.out.find("function: entmax"), std::string::npos);
  EXPECT_EQ(files_below(folder_->path()), before);
  EXPECT_FALSE(fs::exists(path("other")));
}

TEST_F(Programs, EvaluationComparesContextsOverTheSameTargets) {
  const Outcome outcome =
      succeeds("asplash-eval", {"--checkpoint", "run", "--data", "packed/valid", "--context", "256,64,128,64",
                                "--json", "evaluation.json", "--by-position"});
  EXPECT_NE(outcome.out.find("* beyond the trained context of 128"), std::string::npos) << outcome.out;
  const Json json = Json::parse(read_file(path("evaluation.json")));
  EXPECT_EQ(json["attention"], "entmax");
  EXPECT_EQ(json["alpha"], 1.5);
  EXPECT_EQ(json["trained_context"], 128);
  EXPECT_NE(json["checkpoint"].get<std::string>().find("step_00000030"), std::string::npos);
  const Json valid = Json::parse(read_file(path("packed/valid/manifest.json")));
  ASSERT_EQ(json["results"].size(), 3U);
  int64_t context = 64;
  for (const Json& result : json["results"]) {
    EXPECT_EQ(result["context"], context);
    EXPECT_EQ(result["target_tokens"], valid["tokens"].get<int64_t>() - 1);
    EXPECT_EQ(result["target_bytes"], valid["text_bytes"]) << "all but the first bos is a target";
    EXPECT_EQ(result["beyond_trained"], context > 128);
    EXPECT_GT(result["tokens_per_second"], 0);
    EXPECT_GT(result["bits_per_byte"], 1);
    EXPECT_LT(result["perplexity"], json["unigram_perplexity"]);
    double sum = 0;
    for (const Json& bucket : result["loss_by_position"])
      sum += bucket["loss"].get<double>() * bucket["target_tokens"].get<double>();
    EXPECT_NEAR(std::exp(sum / result["target_tokens"].get<double>()), result["perplexity"], 1e-6);
    EXPECT_EQ(result["loss_by_position"].back()["last"], context);
    context *= 2;
  }
  EXPECT_LT(json["unigram_perplexity"], kVocabulary);
}

TEST_F(Programs, EvaluationAgreesWithTheTrainersOwn) {
  succeeds("asplash-eval", {"--checkpoint", "run", "--data", "packed/valid", "--context", "128",
                            "--max-tokens", "2048", "--json", "same.json"});
  const Json evaluated = Json::parse(read_file(path("same.json")))["results"][0];
  const Json trained = json_lines("run/metrics.jsonl").back();
  ASSERT_EQ(trained["event"], "evaluation");
  EXPECT_EQ(evaluated["target_tokens"], trained["target_tokens"]);
  EXPECT_NEAR(evaluated["loss"], trained["loss"], 1e-5);
}

TEST_F(Programs, EvaluationOfPackedDocumentsAgreesWithTheTrainersOwn) {
  succeeds("asplash-train",
           {"--config", "config.yaml", "--set", "train.output=apart", "--set", "train.steps=2", "--set",
            "data.documents=packed", "--set", "train.evaluate_every=0", "--set", "optim.warmup_steps=1"});
  const Json trained = json_lines("apart/metrics.jsonl").back();
  ASSERT_EQ(trained["event"], "evaluation");
  const auto evaluated = [](Arguments more) {
    more.insert(more.end(), {"--checkpoint", "apart", "--data", "packed/valid", "--max-tokens", "2048",
                             "--json", "apart.json"});
    succeeds("asplash-eval", more);
    return Json::parse(read_file(path("apart.json")));
  };
  const Json packed = evaluated({"--context", "64,128"});
  EXPECT_EQ(packed["documents"], "packed");
  EXPECT_EQ(packed["results"][1]["target_tokens"], trained["target_tokens"]);
  EXPECT_EQ(packed["results"][0]["target_tokens"], trained["target_tokens"]);
  EXPECT_EQ(packed["target_tokens"], trained["target_tokens"]);
  EXPECT_NEAR(packed["results"][1]["loss"], trained["loss"], 1e-5);
  const Json stream = evaluated({"--context", "128", "--documents", "stream"});
  EXPECT_EQ(stream["documents"], "stream");
  EXPECT_EQ(stream["results"][0]["target_tokens"], 2048);
  EXPECT_GT(std::abs(stream["results"][0]["loss"].get<double>() - trained["loss"].get<double>()), 1e-4);
}

/// The commands in a configuration's header, up to the first training: words, comments cut off.
std::vector<Arguments> recipe_of(const std::string& config) {
  std::istringstream lines(read_file(config));
  std::vector<Arguments> commands;
  bool continues = false;
  for (std::string line; std::getline(lines, line) && line[0] == '#';) {
    std::istringstream words(line.substr(1, line.find('#', 1) - 1));
    const Arguments found{std::istream_iterator<std::string>(words), {}};
    if (!continues && (found.empty() || found[0].rfind("asplash-", 0) != 0)) continue;
    if (!continues) commands.emplace_back();
    for (const std::string& word : found)
      if (word != "\\") commands.back().push_back(word);
    continues = found.back() == "\\";
    if (!continues && commands.back()[0] == "asplash-train") break;
  }
  return commands;
}

TEST_F(Programs, RecipesInConfigurationsAreComplete) {
  for (const std::string name : {"lm_base", "books_34m"}) {
    const auto commands = recipe_of(std::string(ASPLASH_SOURCE_DIR) + "/configs/" + name + ".yaml");
    ASSERT_GE(commands.size(), 3U) << name;
    EXPECT_EQ(commands.back()[0], "asplash-train") << name;
    for (Arguments command : commands) {
      const std::string program = command[0];
      command.erase(command.begin());
      for (std::string& word : command) {
        if (word == "CORPUS" || word.find(".jsonl") != std::string::npos) word = kCorpus;
        if (word == "32000" || word == "16384") word = std::to_string(kVocabulary);
        if (word.rfind("configs/", 0) == 0) word = std::string(ASPLASH_SOURCE_DIR) + "/" + word;
      }
      if (program == "asplash-train") {
        command.insert(command.end(), {"--set", "train.output=recipe_" + name,
                                       "--set", "train.steps=1",
                                       "--set", "train.tokens_per_step=256",
                                       "--set", "train.micro_batch=0",
                                       "--set", "train.device=cpu",
                                       "--set", "train.evaluate_tokens=256",
                                       "--set", "data.context=128",
                                       "--set", "model.width=32",
                                       "--set", "model.layers=1",
                                       "--set", "model.heads=2",
                                       "--set", "model.mlp_width=64",
                                       "--set", "optim.warmup_steps=1"});
      }
      succeeds(program, command);
    }
    EXPECT_EQ(json_lines("recipe_" + name + "/metrics.jsonl").back()["event"], "evaluation") << name;
  }
}

TEST_F(Programs, SoftmaxIsOneKeyAway) {
  succeeds("asplash-train", {"--config", "config.yaml", "--set", "train.output=softmax", "--set",
                             "train.steps=2", "--set", "train.evaluate_tokens=256", "--set",
                             "model.attention.function=softmax", "--set", "optim.warmup_steps=1"});
  succeeds("asplash-eval", {"--checkpoint", "softmax", "--data", "packed/valid", "--context", "128", "--json",
                            "softmax.json", "--max-tokens", "1024"});
  const Json json = Json::parse(read_file(path("softmax.json")));
  EXPECT_EQ(json["attention"], "softmax");
  EXPECT_EQ(json["alpha"], 1.0);
}

TEST_F(Programs, EvaluationDoesNotDependOnBatchesAndThreads) {
  std::vector<double> perplexities;
  for (const Arguments& more : {Arguments{"--batch-tokens", "100"}, Arguments{"--threads", "1"}}) {
    Arguments arguments = {"--checkpoint", "run",  "--data",   "packed/valid/manifest.json",
                           "--context",    "64",   "--stride", "16",
                           "--max-tokens", "1500", "--json",   "again.json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    succeeds("asplash-eval", arguments);
    const Json json = Json::parse(read_file(path("again.json")));
    EXPECT_EQ(json["results"][0]["target_tokens"], 1500);
    perplexities.push_back(json["results"][0]["perplexity"]);
  }
  EXPECT_NEAR(perplexities[0] / perplexities[1], 1, 1e-5);
}

TEST_F(Programs, CaptureWritesWhatTheAttentionIsGiven) {
  const Outcome outcome = succeeds(
      "asplash-eval", {"--checkpoint", "run", "--data", "packed/valid", "--capture", "attention.safetensors",
                       "--capture-layers", "1", "--capture-context", "192", "--capture-windows", "2"});
  EXPECT_NE(outcome.out.find("attention.safetensors"), std::string::npos) << outcome.out;
  EXPECT_EQ(lines_in(outcome.out), 1) << outcome.out;

  const std::string file = read_file(path("attention.safetensors"));
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  const Json header = Json::parse(file.substr(sizeof header_bytes, header_bytes));
  const Json& metadata = header["__metadata__"];
  const int64_t dim = std::stoll(metadata["head_dim"].get<std::string>());
  uint64_t data_bytes = 0;
  for (const auto& [name, entry] : header.items())
    if (name != "__metadata__") data_bytes = std::max<uint64_t>(data_bytes, entry["data_offsets"][1]);
  EXPECT_EQ(file.size(), sizeof header_bytes + header_bytes + data_bytes);
  EXPECT_EQ(header.size(), 1 + 1 + 2 * 5U);
  for (const char* window : {"window_0", "window_1"}) {
    for (const char* which : {"query", "key", "value"}) {
      const Json& entry = header[str(window, ".layer_1.", which)];
      EXPECT_EQ(entry["dtype"], "F32");
      EXPECT_EQ(entry["shape"], Json({4, 192, dim}));
    }
    EXPECT_EQ(header[str(window, ".tokens")]["shape"], Json({192}));
    EXPECT_EQ(header[str(window, ".cu_seqlens")]["shape"], Json({2}));
  }
  EXPECT_EQ(header["alibi_slopes"]["shape"], Json({4}));
  EXPECT_EQ(metadata["format"], "asplash-attention-1");
  EXPECT_EQ(metadata["alpha"], "1.5");
  EXPECT_DOUBLE_EQ(std::stod(metadata["scale"].get<std::string>()), 1 / std::sqrt(static_cast<double>(dim)));
  EXPECT_EQ(metadata["head_kinds"], "alibi,alibi,nope,nope");
  EXPECT_EQ(metadata["causal"], "true");
  EXPECT_EQ(metadata["context"], "192");
  EXPECT_EQ(metadata["layers"], "1");
  EXPECT_EQ(metadata["step"], std::to_string(kSteps));
  EXPECT_NE(metadata["checkpoint"].get<std::string>().find("step_00000030"), std::string::npos);
  fs::remove(path("attention.safetensors"));
}

TEST_F(Programs, CaptureRefusesBadValuesByName) {
  const auto refused = [](const Arguments& more, const std::vector<std::string>& parts) {
    Arguments arguments = {"--checkpoint", "run", "--data", "packed/valid", "--capture"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    fails("asplash-eval", arguments, parts);
  };
  refused({"x.safetensors", "--capture-layers", "0,2"}, {"capture-layers 2", "0 to 1"});
  refused({"x.safetensors", "--capture-layers", "1,1"}, {"capture-layers 1", "twice"});
  refused({"x.safetensors", "--capture-context", "10000000"}, {"capture-context 10000000", "larger than"});
  refused({"x.safetensors", "--capture-windows", "100000"}, {"capture-windows 100000", "at most"});
  refused({"no/x.safetensors"}, {"--capture no/x.safetensors", "no folder"});
  refused({"packed"}, {"--capture packed", "is a folder"});
  const auto misused = [](const Arguments& more, const std::string& part) {
    Arguments arguments = {"--checkpoint", "run", "--data", "packed/valid"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = call("asplash-eval", arguments);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(lines_in(outcome.err), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  misused({}, "--context or --capture");
  misused({"--capture", "x.safetensors", "--context", "64"}, "excludes");
  misused({"--context", "64", "--capture-layers", "0"}, "--capture");
  misused({"--capture", "x.safetensors", "--capture-layers", "0,-1"}, "--capture-layers");
  misused({"--capture", "x.safetensors", "--capture-windows", "0"}, "--capture-windows");
}

TEST_F(Programs, GenerationIsReproducibleBySeed) {
  const auto text = [](const std::string& seed) {
    const Outcome outcome =
        succeeds("asplash-generate", {"--checkpoint", "run", "--prompt", "And God said", "--max-tokens", "40",
                                      "--seed", seed, "--top-k", "50"});
    EXPECT_EQ(outcome.out.rfind("And God said", 0), 0U) << outcome.out;
    EXPECT_TRUE(is_valid_utf8(outcome.out));
    EXPECT_NE(outcome.err.find("tokens/s"), std::string::npos) << outcome.err;
    return outcome.out;
  };
  const std::string first = text("3");
  EXPECT_GT(first.size(), std::string("And God said\n").size());
  EXPECT_EQ(text("3"), first);
  EXPECT_NE(text("4"), first);
}

TEST_F(Programs, GenerationReadsPromptsFromFilesAndStandardInput) {
  const Arguments greedy = {
      "--checkpoint",    "run/checkpoints/step_00000030", "--max-tokens", "20", "--temperature", "0",
      "--no-stop-at-eos"};
  const auto with = [&](Arguments more) {
    more.insert(more.end(), greedy.begin(), greedy.end());
    return more;
  };
  std::ofstream(path("prompt.txt")) << "In the beginning";
  const std::string direct = succeeds("asplash-generate", with({"--prompt", "In the beginning"})).out;
  EXPECT_EQ(succeeds("asplash-generate", with({"--prompt-file", "prompt.txt"})).out, direct);
  EXPECT_EQ(call("asplash-generate", with({"--prompt-file", "-"}), "In the beginning").out, direct);
  EXPECT_EQ(
      "In the beginning" +
          succeeds("asplash-generate", with({"--prompt", "In the beginning", "--continuation-only"})).out,
      direct);
  fs::remove(path("prompt.txt"));
}

TEST_F(Programs, GenerationWarnsBeyondTheTrainedContext) {
  std::string prompt;
  for (int i = 0; i < 150; ++i) prompt += "And he said. ";
  const Outcome outcome = succeeds(
      "asplash-generate", {"--checkpoint", "run", "--prompt", prompt, "--max-tokens", "3", "--seed", "1"});
  EXPECT_NE(outcome.err.find("more than the context of 128"), std::string::npos) << outcome.err;
}

TEST_F(Programs, BadInputGivesOneLineAndNoOutput) {
  fails("asplash-train", {"--config", "nowhere.yaml"}, {"nowhere.yaml"});
  fails("asplash-train", {"--config", "config.yaml", "--set", "optim.lrr=1", "--set", "train.output=bad"},
        {"optim.lrr", "lr"});
  fails("asplash-train",
        {"--config", "config.yaml", "--set", "data.train=nowhere", "--set", "train.output=bad"}, {"nowhere"});
  fails("asplash-data",
        {"tokenizer", "--input", "nowhere.jsonl", "--vocab-size", "500", "--output", "x.model"},
        {"nowhere.jsonl"});
  fails("asplash-data", {"pack", "--tokenizer", "nowhere.model", "--input", kCorpus, "--output", "bad"},
        {"nowhere.model"});
  fails("asplash-data", {"inspect", "nowhere"}, {"nowhere"});
  fails("asplash-eval", {"--checkpoint", "nowhere", "--data", "packed/valid", "--context", "64"},
        {"nowhere"});
  fails("asplash-eval", {"--checkpoint", "run", "--data", "nowhere", "--context", "64"}, {"nowhere"});
  fails("asplash-eval", {"--checkpoint", "run", "--data", "packed/valid", "--context", "64,10000000"},
        {"context 10000000", "larger than"});
  fails("asplash-eval",
        {"--checkpoint", "run", "--data", "packed/valid", "--context", "64", "--stride", "65"},
        {"stride 65"});
  fails("asplash-eval",
        {"--checkpoint", "run", "--data", "packed/valid", "--context", "64", "--json", "no/x.json"},
        {"no/x.json"});
  fails("asplash-eval",
        {"--checkpoint", "run", "--data", "packed/valid", "--context", "64", "--device", "tpu"}, {"'tpu'"});
  fails("asplash-generate", {"--checkpoint", "nowhere", "--prompt", "x"}, {"nowhere"});
  fails("asplash-generate", {"--checkpoint", "run", "--prompt-file", "nowhere.txt"}, {"nowhere.txt"});
  fails("asplash-generate", {"--checkpoint", "run", "--prompt", "x", "--top-p", "1.5"}, {"top-p 1.5"});
  fails("asplash-generate", {"--checkpoint", "run", "--prompt", "\xff"}, {"not valid UTF-8"});
}

TEST_F(Programs, BadCommandLinesAreUsageErrors) {
  for (const char* list : {"64,x", "64,-1", "0"}) {
    const Outcome outcome =
        call("asplash-eval", {"--checkpoint", "run", "--data", "packed/valid", "--context", list});
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(lines_in(outcome.err), 1) << outcome.err;
    EXPECT_NE(outcome.err.find("--context"), std::string::npos) << outcome.err;
  }
  EXPECT_EQ(call("asplash-generate", {"--checkpoint", "run"}).status, 2);
  for (const auto& [program, arguments] : std::vector<std::pair<const char*, Arguments>>{
           {"asplash-generate", {"--checkpoint", "run", "--prompt", "x", "--seed", "-1"}},
           {"asplash-data", {"tokenizer", "--input", kCorpus, "--output", "no.model", "--seed", "-1"}},
           {"asplash-data",
            {"pack", "--tokenizer", "tokenizer.model", "--input", kCorpus, "--output", "no", "--split-seed",
             "-1"}},
           {"asplash-data", {"inspect", "packed", "--seed", "-1"}}}) {
    const Outcome outcome = call(program, arguments);
    EXPECT_EQ(outcome.status, 2) << outcome.out << outcome.err;
    EXPECT_NE(outcome.err.find("-1 is below 0"), std::string::npos) << outcome.err;
  }
  const std::string help = call("asplash-generate", {"--help"}).out;
  EXPECT_EQ(help.find("{false}"), std::string::npos) << help;
  for (const char* program : {"asplash-data", "asplash-train", "asplash-eval", "asplash-generate"}) {
    EXPECT_EQ(call(program, {"--help"}).status, 0) << program;
    EXPECT_NE(call(program, {"--version"}).out.find("0.1.0"), std::string::npos) << program;
  }
}

TEST_F(Programs, AnotherTokenizerIsRefusedByBothHashes) {
  succeeds("asplash-data", {"tokenizer", "--input", kCorpus, "--vocab-size", "400", "--model", "bpe",
                            "--output", "other.model"});
  succeeds("asplash-data", {"pack", "--tokenizer", "other.model", "--input", kCorpus, "--output",
                            "other_packed", "--name", "valid"});
  fails("asplash-eval", {"--checkpoint", "run", "--data", "other_packed/valid", "--context", "64"},
        {hash_file(path("tokenizer.model")), hash_file(path("other.model"))});
}

TEST_F(Programs, ADamagedCheckpointIsRefusedByName) {
  fs::copy(path("run/checkpoints/step_00000030"), path("damaged"), fs::copy_options::recursive);
  {
    std::fstream file(path("damaged/model.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-5, std::ios::end);
    file.put('\x7f');
  }
  fails("asplash-generate", {"--checkpoint", "damaged", "--prompt", "x"}, {"damaged", "model.safetensors"});
  fs::remove_all(path("damaged"));
}

/// The same run, looked at from a GPU.
class ProgramsGpu : public Programs {
 protected:
  static void SetUpTestSuite() {
    if (fs::exists("/dev/nvidiactl")) Programs::SetUpTestSuite();
  }
  void SetUp() override {
    if (!folder_ || has_no_gpu()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  }
  static bool has_no_gpu() {
    const Outcome outcome = call("asplash-generate", {"--checkpoint", "run", "--prompt", "x", "--max-tokens",
                                                      "1", "--device", "cuda"});
    return outcome.status == 1 && outcome.err.rfind("error: device 'cuda'", 0) == 0;
  }
  static double perplexity(const Arguments& more) {
    Arguments arguments = {"--checkpoint", "run", "--data", "packed/valid",
                           "--context",    "256", "--json", "gpu.json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    succeeds("asplash-eval", arguments);
    return Json::parse(read_file(path("gpu.json")))["results"][0]["perplexity"];
  }
};

TEST_F(ProgramsGpu, EvaluatesAsTheCpuDoes) {
  const double cpu = perplexity({"--device", "cpu"});
  EXPECT_NEAR(perplexity({"--device", "cuda", "--precision", "fp32"}) / cpu, 1, 1e-3);
  EXPECT_NEAR(perplexity({"--device", "cuda"}) / cpu, 1, 2e-2);
}

TEST_F(ProgramsGpu, GeneratesReproducibly) {
  const Arguments arguments = {"--checkpoint", "run",    "--prompt", "And God said", "--max-tokens",
                               "40",           "--seed", "3",        "--device",     "cuda"};
  EXPECT_EQ(succeeds("asplash-generate", arguments).out, succeeds("asplash-generate", arguments).out);
}

}  // namespace
}  // namespace asplash::programs
