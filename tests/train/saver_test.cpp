#include "asplash/train/saver.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <thread>

#include "train/small_run.h"

namespace asplash::train {
namespace {

namespace fs = std::filesystem;

class SaverTest : public ::testing::Test {
 protected:
  SaverTest() {
    const TrainOptions options = small_.options({"train.keep_checkpoints=100"});
    setup_ = prepare(options, load_config(options));
    fs::create_directories(small_.run_folder());
    metrics_ = std::make_unique<MetricsFile>(small_.run_folder() + "/metrics.jsonl", 0, OnFailedWrite::stop);
  }

  static checkpoint::Contents contents_of(const at::Tensor& weight, int64_t step) {
    checkpoint::Contents contents;
    contents.model = {{"weight", weight}};
    contents.optimizer = {{"moment", weight}};
    contents.state.step = step;
    contents.config_yaml = "train: {}\n";
    contents.config_json = "{}\n";
    return contents;
  }

  at::Tensor saved(int64_t step) const {
    return checkpoint::read_safetensors(small_.checkpoint(step) + "/model.safetensors").tensors.at("weight");
  }

  SmallRun small_;
  train::Setup setup_;
  std::unique_ptr<MetricsFile> metrics_;
};

TEST_F(SaverTest, WritesBesideTheLoopWhatTheLoopHadThen) {
  const at::Tensor weight = at::zeros({1 << 23});  // 32 MiB: written slower than handed over
  Saver saver(setup_, *metrics_);
  bool was_beside = false;
  constexpr int64_t kSaves = 4;
  for (int64_t step = 1; step <= kSaves; ++step) {
    weight.fill_(step);
    saver.save(contents_of(weight, step));
    was_beside = was_beside || !fs::exists(small_.checkpoint(step));
    weight.fill_(-1);  // the next step, while the thread writes
    saver.check();
  }
  saver.finish();
  EXPECT_TRUE(was_beside) << "save() waited for the disk";
  for (int64_t step = 1; step <= kSaves; ++step) {
    EXPECT_TRUE(at::equal(saved(step), at::full_like(weight, step))) << step;
  }
}

TEST_F(SaverTest, TheDestructorWaitsForTheLastSave) {
  { Saver(setup_, *metrics_).save(contents_of(at::ones({1 << 22}), 1)); }
  EXPECT_EQ(checkpoint::list(small_.run_folder()).complete, std::vector<std::string>{small_.checkpoint(1)});
}

TEST_F(SaverTest, AFailureAppearsAtTheNextStepOrAtTheEnd) {
  setup_.config.train.on_failed_write = OnFailedWrite::stop;
  write_file_atomically(small_.run_folder() + "/checkpoints", "a file where the folder belongs");
  Saver saver(setup_, *metrics_);
  saver.save(contents_of(at::ones({4}), 1));
  EXPECT_NE(error_of([&] {
              for (int step = 0; step < 10'000; ++step) {
                saver.check();
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
              }
            }).find("training stopped: a checkpoint could not be saved"),
            std::string::npos);
  saver.save(contents_of(at::ones({4}), 2));
  EXPECT_NE(error_of([&] { saver.finish(); }).find(small_.checkpoint(2)), std::string::npos);
}

}  // namespace
}  // namespace asplash::train
