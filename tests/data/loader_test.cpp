#include "asplash/data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <set>
#include <thread>
#include <utility>

#include "asplash/base/error.h"
#include "data/packed_data.h"
#include "temporary_folder.h"

namespace asplash::data {
namespace {

constexpr int64_t kVocab = 30000;

/// Document of each token, by counting.
std::vector<int64_t> owners(const Documents& documents) {
  std::vector<int64_t> result;
  for (size_t i = 0; i < documents.size(); ++i)
    result.insert(result.end(), documents[i].size(), static_cast<int64_t>(i));
  return result;
}

class LoaderTest : public ::testing::Test {
 protected:
  LoaderTest()
      : documents_(random_documents(120, 90, kVocab, 5)),
        tokens_(joined(documents_)),
        dataset_(TokenDataset::open(
            pack_documents(folder_.path(), "train", documents_, without_tokenizer(kVocab), 700))) {}

  static LoaderOptions options(int64_t rank, int64_t world, int64_t micro_batches, int64_t rows = 2) {
    LoaderOptions o;
    o.context = 32;
    o.rows = rows;
    o.micro_batches = micro_batches;
    o.rank = rank;
    o.world = world;
    o.seed = 11;
    return o;
  }

  /// Rows of a step, as vectors of tokens, by their global sample index.
  std::vector<std::vector<int32_t>> step_rows(std::vector<std::unique_ptr<Loader>>& ranks,
                                              const LoaderOptions& o) {
    std::vector<std::vector<int32_t>> rows;
    for (int64_t m = 0; m < o.micro_batches; ++m) {
      for (auto& loader : ranks) {
        const Batch batch = loader->next();
        for (int64_t r = 0; r < batch.rows; ++r)
          rows.emplace_back(batch.tokens.get() + r * batch.context,
                            batch.tokens.get() + (r + 1) * batch.context);
      }
    }
    return rows;
  }

  TemporaryFolder folder_;
  Documents documents_;
  std::vector<int32_t> tokens_;
  TokenDataset dataset_;
};

TEST_F(LoaderTest, GivesTheSamplersWindows) {
  Loader loader(dataset_, options(0, 1, 2), {});
  const int64_t samples = (static_cast<int64_t>(tokens_.size()) - 1) / 32;
  EXPECT_EQ(loader.samples_per_epoch(), samples);
  const Sampler sampler(samples, 11, true);
  for (int64_t i = 0; i < samples / 4 * 2; ++i) {
    const Batch batch = loader.next();
    EXPECT_EQ(batch.position.epoch, 0);
    EXPECT_EQ(batch.position.sample, i / 2 * 4);
    EXPECT_EQ(batch.valid_targets, 64);
    EXPECT_TRUE(batch.cu_seqlens.empty());
    EXPECT_GE(batch.wait_ms, 0);
    for (int64_t row = 0; row < 2; ++row) {
      const int64_t first = sampler.window(0, 2 * i + row) * 32;
      EXPECT_TRUE(
          std::equal(tokens_.begin() + first, tokens_.begin() + first + 32, batch.tokens.get() + 32 * row));
      EXPECT_TRUE(std::equal(tokens_.begin() + first + 1, tokens_.begin() + first + 33,
                             batch.targets.get() + 32 * row));
    }
  }
}

TEST_F(LoaderTest, TakesTheLastWholeWindow) {
  // 33 tokens are one sample of context 32, 32 tokens are none.
  const auto data = [&](int64_t tokens, const std::string& split) {
    return TokenDataset::open(pack_documents(folder_.path(), split,
                                             {std::vector<int32_t>(static_cast<size_t>(tokens), 3)},
                                             without_tokenizer(kVocab), 1000));
  };
  const auto enough = data(33, "enough");
  EXPECT_EQ(Loader(enough, options(0, 1, 1, 1), {}).samples_per_epoch(), 1);
  const auto few = data(32, "few");
  EXPECT_THROW(Loader(few, options(0, 1, 1, 1), {}), Error);
}

TEST_F(LoaderTest, GivesTheSameStepsToAnyNumberOfRanks) {
  std::vector<std::vector<std::vector<int32_t>>> all;
  for (const int64_t world : {1, 2, 4}) {
    const LoaderOptions o = options(0, world, 4 / world);
    std::vector<std::unique_ptr<Loader>> ranks;
    for (int64_t rank = 0; rank < world; ++rank)
      ranks.push_back(std::make_unique<Loader>(dataset_, options(rank, world, 4 / world), Position{}));
    std::vector<std::vector<int32_t>> rows;
    for (int step = 0; step < 40; ++step) {  // more than one epoch
      for (auto& row : step_rows(ranks, o)) rows.push_back(std::move(row));
    }
    for (auto& loader : ranks) EXPECT_EQ(loader->position().sample, ranks[0]->position().sample);
    all.push_back(std::move(rows));
  }
  EXPECT_EQ(all[0], all[1]);
  EXPECT_EQ(all[0], all[2]);
}

TEST_F(LoaderTest, LeavesOutTheRestOfAnEpoch) {
  Loader loader(dataset_, options(0, 1, 1, 7), {});
  const int64_t steps = loader.samples_per_epoch() / 7;
  for (int64_t i = 0; i < steps; ++i) EXPECT_EQ(loader.next().position.epoch, 0);
  const Batch batch = loader.next();
  EXPECT_EQ(batch.position.epoch, 1);
  EXPECT_EQ(batch.position.sample, 0);
}

TEST_F(LoaderTest, GoesOnWhereItStopped) {
  const LoaderOptions o = options(0, 1, 2, 3);
  std::vector<std::vector<int32_t>> straight;
  std::vector<Position> positions;
  {
    Loader loader(dataset_, o, {});
    for (int i = 0; i < 60; ++i) {
      if (i % 2 == 0) positions.push_back(loader.position());
      const Batch batch = loader.next();
      straight.emplace_back(batch.tokens.get(), batch.tokens.get() + batch.rows * batch.context);
    }
  }
  for (size_t step = 0; step < positions.size(); step += 7) {
    Loader loader(dataset_, o, positions[step]);
    for (size_t i = 2 * step; i < straight.size(); ++i) {
      const Batch batch = loader.next();
      EXPECT_TRUE(std::equal(straight[i].begin(), straight[i].end(), batch.tokens.get())) << step << " " << i;
    }
  }
}

TEST_F(LoaderTest, PacksDocumentsLikeABruteForce) {
  const std::vector<int64_t> owner = owners(documents_);
  LoaderOptions o = options(0, 1, 1, 3);
  o.packed = true;
  Loader loader(dataset_, o, {});
  const Sampler sampler(loader.samples_per_epoch(), o.seed, true);
  for (int64_t step = 0; step < loader.samples_per_epoch() / 3; ++step) {
    const Batch batch = loader.next();
    std::vector<int32_t> boundaries{0};
    int64_t valid = 0;
    for (int64_t i = 0; i < 3 * 32; ++i) {
      const int64_t token = sampler.window(0, 3 * step + i / 32) * 32 + i % 32;
      const bool crosses = owner[static_cast<size_t>(token)] != owner[static_cast<size_t>(token) + 1];
      EXPECT_EQ(batch.tokens.get()[i], tokens_[static_cast<size_t>(token)]);
      EXPECT_EQ(batch.targets.get()[i], crosses ? kIgnoredTarget : tokens_[static_cast<size_t>(token) + 1]);
      valid += crosses ? 0 : 1;
      if (crosses || i % 32 == 31) boundaries.push_back(static_cast<int32_t>(i + 1));
    }
    EXPECT_EQ(batch.cu_seqlens, boundaries);
    EXPECT_EQ(batch.valid_targets, valid);
  }
}

TEST_F(LoaderTest, UsesTheCallersMemory) {
  std::atomic<int> calls{0};
  Loader loader(dataset_, options(0, 1, 1), {}, [&](size_t bytes) {
    ++calls;
    return std::shared_ptr<void>(std::malloc(bytes), std::free);
  });
  const Batch batch = loader.next();
  EXPECT_GE(calls.load(), 2);
  EXPECT_NE(batch.tokens.get(), batch.targets.get());
}

TEST_F(LoaderTest, PreparesNoMoreThanItMay) {
  std::atomic<int> calls{0};
  LoaderOptions o = options(0, 1, 1);
  o.prefetch = 3;
  Loader loader(dataset_, o, {}, [&](size_t bytes) {
    ++calls;
    return std::shared_ptr<void>(std::malloc(bytes), std::free);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(calls.load(), 6);
}

TEST_F(LoaderTest, StopsAtOnceInAnyState) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i) {
    Loader loader(dataset_, options(0, 1, 1), {});
    if (i % 3 == 1) loader.next();
    if (i % 3 == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST_F(LoaderTest, HandsOnWhatTheThreadMet) {
  const std::string shard = folder_.path() + "/train/shard-00001.tokens";
  std::fstream file(shard, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(4096 + 10);
  file.put('\x7f');
  file.close();
  const auto damaged = TokenDataset::open(folder_.path() + "/train");
  LoaderOptions o = options(0, 1, 1);
  o.shuffle = false;
  Loader loader(damaged, o, {});
  try {
    for (int i = 0; i < 1000; ++i) loader.next();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("shard-00001.tokens"), std::string::npos) << error.what();
  }
  EXPECT_THROW(loader.next(), Error);
}

TEST_F(LoaderTest, RefusesWhatCannotBe) {
  EXPECT_THROW(Loader(dataset_, options(2, 2, 1), {}), Error);
  EXPECT_THROW(Loader(dataset_, options(0, 1, 0), {}), Error);
  EXPECT_THROW(Loader(dataset_, options(0, 1, 1), {-1, 0}), Error);
  try {
    Loader(dataset_, options(0, 1, 1000), {});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("one step needs 2000"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace asplash::data
