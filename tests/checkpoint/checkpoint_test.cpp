#include "asplash/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <fstream>

#include "asplash/checkpoint/trainer_state.h"
#include "checkpoint/fixtures.h"

namespace asplash::checkpoint {
namespace {

namespace fs = std::filesystem;

const char* const kFiles[] = {"model.safetensors", "optimizer.safetensors", "trainer_state.json",
                              "config.yaml",       "config.json",           "tokenizer.model"};

std::string error_of(const std::string& path) {
  try {
    const Reader reader(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Checkpoint, RoundTrips) {
  const TemporaryFolder folder;
  Contents contents = some_contents(folder, 7);
  contents.state.best_validation_loss = 3.25;
  contents.state.best_step = 6;
  contents.state.skipped_in_a_row = 2;
  contents.state.loss_level = {1.0 / 3, 0.1, 12};
  contents.state.data = "abc";
  contents.state.precision = "bf16";
  save(folder / "run/checkpoints/step_00000007", contents);
  EXPECT_FALSE(fs::exists(folder / "run/checkpoints/step_00000007.tmp"));

  for (const char* path : {"run", "run/checkpoints/step_00000007"}) {
    const Reader reader(folder / path);
    const TrainerState state = reader.state();
    EXPECT_EQ(state.step, 7);
    EXPECT_EQ(state.tokens, 5'000'000'000);
    EXPECT_EQ(state.skipped_steps, 3);
    EXPECT_EQ(state.position.epoch, 2);
    EXPECT_EQ(state.position.sample, 77);
    EXPECT_EQ(state.seed, 0xffff'ffff'ffff'fff0u);
    EXPECT_EQ(state.best_validation_loss, 3.25);
    EXPECT_EQ(state.best_step, 6);
    EXPECT_EQ(state.skipped_in_a_row, 2);
    EXPECT_EQ(state.loss_level.mean, 1.0 / 3);
    EXPECT_EQ(state.loss_level.deviation, 0.1);
    EXPECT_EQ(state.loss_level.steps, 12);
    EXPECT_EQ(state.data, "abc");
    EXPECT_EQ(state.precision, "bf16");
    EXPECT_EQ(reader.config_yaml(), contents.config_yaml);
    EXPECT_EQ(read_file(reader.tokenizer_file()), "a tokenizer");
    EXPECT_EQ(reader.optimizer().at(0).second.item<float>(), 7);

    ParametersOnly model(some_parameters());
    reader.load_model(model);
    for (size_t i = 0; i < contents.model.size(); ++i) {
      EXPECT_TRUE(at::equal(model.parameters()[i].value, contents.model[i].second));
    }
  }
}

TEST(Checkpoint, RefusesWeightsOfAnotherModel) {
  const TemporaryFolder folder;
  save(folder / "a", some_contents(folder, 1));
  const Reader reader(folder / "a");
  auto parameters = some_parameters();
  parameters.push_back({"model.extra.weight", at::zeros({2})});
  ParametersOnly more(parameters);
  EXPECT_THROW(reader.load_model(more), Error);
  parameters.resize(1);
  ParametersOnly fewer(parameters);
  EXPECT_THROW(reader.load_model(fewer), Error);
  parameters = some_parameters();
  parameters[1].value = at::zeros({5});
  ParametersOnly other(parameters);
  EXPECT_THROW(reader.load_model(other), Error);
  EXPECT_TRUE(at::equal(other.parameters()[0].value, parameters[0].value)) << "changed before it was refused";
}

TEST(Checkpoint, NamesAMissingOrTruncatedFile) {
  const TemporaryFolder folder;
  for (const std::string file : kFiles) {
    const std::string path = folder / "a/" + file;
    save(folder / "a", some_contents(folder, 1));
    EXPECT_EQ(error_of(folder / "a"), "");
    fs::resize_file(path, fs::file_size(path) - 1);
    EXPECT_NE(error_of(folder / "a").find(file), std::string::npos) << error_of(folder / "a");
    fs::remove(path);
    EXPECT_NE(error_of(folder / "a").find(file), std::string::npos) << error_of(folder / "a");
  }
}

TEST(Checkpoint, RefusesADamagedManifest) {
  const TemporaryFolder folder;
  save(folder / "a", some_contents(folder, 1));
  const std::string path = folder / "a/manifest.json";
  const std::string whole = read_file(path);
  for (size_t size = 0; size + 2 < whole.size(); size += 13) {
    std::ofstream(path, std::ios::binary) << whole.substr(0, size);
    EXPECT_NE(error_of(folder / "a").find("manifest.json"), std::string::npos);
  }
  for (const char* text : {"[]", "{}", R"({"format":"other","version":1,"files":{}})",
                           R"({"format":"asplash checkpoint","version":2,"files":{}})",
                           R"({"format":"asplash checkpoint","version":1,"files":{}})",
                           R"({"format":"asplash checkpoint","version":1,"files":7})"}) {
    std::ofstream(path, std::ios::binary) << text;
    EXPECT_NE(error_of(folder / "a"), "") << text;
  }
  fs::remove(path);
  EXPECT_NE(error_of(folder / "a").find("manifest.json"), std::string::npos);
}

TEST(Checkpoint, ReplacesAnEarlierOneOfTheSameName) {
  const TemporaryFolder folder;
  save(folder / "a", some_contents(folder, 1));
  save(folder / "a", some_contents(folder, 2));
  EXPECT_EQ(Reader(folder / "a").state().step, 2);
  EXPECT_FALSE(fs::exists(folder / "a.tmp"));
}

TEST(Checkpoint, AFailedSaveLeavesTheOldOneAndNoRest) {
  const TemporaryFolder folder;
  save(folder / "a", some_contents(folder, 1));
  Contents contents = some_contents(folder, 2);
  contents.tokenizer_file = folder / "no-such-file";
  EXPECT_THROW(save(folder / "a", contents), Error);
  EXPECT_THROW(save(folder / "b", contents), Error);
  EXPECT_EQ(Reader(folder / "a").state().step, 1);
  EXPECT_FALSE(fs::exists(folder / "b"));
  EXPECT_FALSE(fs::exists(folder / "a.tmp"));
  EXPECT_FALSE(fs::exists(folder / "b.tmp"));
}

TEST(Checkpoint, StartsAnewOverTheRestOfAnInterruptedSave) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "a.tmp/deep");
  std::ofstream(folder / "a.tmp/rest") << "rest";
  save(folder / "a", some_contents(folder, 1));
  EXPECT_FALSE(fs::exists(folder / "a/rest"));
  EXPECT_FALSE(fs::exists(folder / "a.tmp"));
}

TEST(Checkpoint, DataWithoutATokenizerHasNone) {
  const TemporaryFolder folder;
  Contents contents = some_contents(folder, 1);
  contents.tokenizer_file = "";
  save(folder / "a", contents);
  EXPECT_EQ(Reader(folder / "a").tokenizer_file(), "");
  EXPECT_FALSE(fs::exists(folder / "a/tokenizer.model"));
}

TEST(Checkpoint, StatesOfEarlierVersionsLackTheLaterCounters) {
  const std::string text =
      R"({"step":3,"tokens":9,"skipped_steps":1,"position":{"epoch":0,"sample":4},"seed":1})";
  const TrainerState state = parse_trainer_state("s.json", text);
  EXPECT_EQ(state.step, 3);
  EXPECT_EQ(state.skipped_in_a_row, 0);
  EXPECT_EQ(state.best_step, -1);
  EXPECT_EQ(state.data, "");
  std::string negative = text;
  negative.replace(negative.find(":9"), 2, ":-9");
  EXPECT_THROW(parse_trainer_state("s.json", negative), Error);
}

TEST(Checkpoint, RefusesWhatIsNoCheckpoint) {
  const TemporaryFolder folder;
  EXPECT_NE(error_of(folder / "nothing").find("no such folder"), std::string::npos);
  EXPECT_NE(error_of(folder.path()).find("manifest.json"), std::string::npos);
  fs::create_directories(folder / "run/checkpoints");
  EXPECT_NE(error_of(folder / "run").find("no whole checkpoint"), std::string::npos);
}

}  // namespace
}  // namespace asplash::checkpoint
