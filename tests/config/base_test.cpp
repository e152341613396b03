#include <gtest/gtest.h>

#include <filesystem>

#include "asplash/base/files.h"
#include "base/folder_test.h"
#include "config/sample.h"

namespace asplash::config::testing {
namespace {

namespace fs = std::filesystem;

class BaseFiles : public asplash::testing::FolderTest {
 protected:
  void SetUp() override { fs::create_directory(path("sub")); }

  void write(const std::string& name, const std::string& text) const {
    write_file_atomically(path(name), text);
  }

  std::string message(const std::string& name, const std::vector<std::string>& overrides = {}) const {
    Sample sample;
    try {
      load(path(name), overrides, describing(sample));
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "";
  }
};

TEST_F(BaseFiles, ChildWinsKeyByKey) {
  write("root.yaml",
        "train: {steps: 10, batch: 1}\noptim:\n  lr: 0.5\n  inner: {share: 0.75}\nnames: [a, b]\n");
  write("sub/middle.yaml", "base: ../root.yaml\ntrain: {batch: 2}\nnames: [c]\n");
  write("leaf.yaml", "optim:\n  inner: {slopes: [1]}\nbase: sub/middle.yaml\n");
  Sample sample;
  load(path("leaf.yaml"), {"train.batch=3"}, describing(sample));
  EXPECT_EQ(sample.train.steps, 10);
  EXPECT_EQ(sample.train.batch, 3);
  EXPECT_EQ(sample.optim.lr, 0.5);
  EXPECT_EQ(sample.optim.inner.share, 0.75);
  EXPECT_EQ(sample.optim.inner.slopes, std::vector<double>{1});
  EXPECT_EQ(sample.names, std::vector<std::string>{"c"});
}

TEST_F(BaseFiles, ProblemsNameTheFileThatWroteTheValue) {
  write("root.yaml", "# first\ntrain:\n  steps: 0\n  batch: x\n  bach: 1\noptim:\n  lr_min: 5\n");
  write("leaf.yaml", "base: root.yaml\ntrain:\n  batch: 4\noptim: {schedule: wild}\n");
  EXPECT_EQ(
      message("leaf.yaml"),
      path("leaf.yaml") +
          ":4: optim.schedule: is none of the choices (wild); expected one of cosine, linear, constant\n" +
          path("root.yaml") + ":3: train.steps: is out of range (0); expected an integer, at least 1\n" +
          path("root.yaml") + ":5: train.bach: unknown key; did you mean 'train.batch'?");
}

TEST_F(BaseFiles, RulesNameTheFileThatWroteTheKey) {
  write("root.yaml", "optim:\n  lr: 1\n  lr_min: 0.5\n");
  write("leaf.yaml", "base: root.yaml\noptim:\n  lr: 0.1\n");
  EXPECT_EQ(message("leaf.yaml"),
            path("root.yaml") + ":3: optim.lr_min: must be at most lr (0.5 against 0.1)");
}

TEST_F(BaseFiles, MissingFilesNameTheChain) {
  write("middle.yaml", "# base below\nbase: gone.yaml\n");
  write("leaf.yaml", "base: middle.yaml\ntrain: {steps: 0}\noptim: {lr_min: 9}\n");
  EXPECT_EQ(message("leaf.yaml"),
            path("leaf.yaml") + ":2: train.steps: is out of range (0); expected an integer, at least 1\n" +
                path("middle.yaml") + ":2: base: cannot read " + path("gone.yaml") +
                ": No such file or directory (" + path("leaf.yaml") + " -> " + path("middle.yaml") + " -> " +
                path("gone.yaml") + ")");
  EXPECT_EQ(message("nothing.yaml"), "cannot read " + path("nothing.yaml") + ": No such file or directory");
  EXPECT_EQ(message("sub"), "cannot read " + path("sub") + ": Is a directory");
}

TEST_F(BaseFiles, CirclesNameTheChain) {
  write("a.yaml", "base: sub/b.yaml\n");
  write("sub/b.yaml", "\nbase: ../sub/../a.yaml\n");
  EXPECT_EQ(message("a.yaml"), path("sub/b.yaml") + ":2: base: goes round in a circle (" + path("a.yaml") +
                                   " -> " + path("sub/b.yaml") + " -> " + path("a.yaml") + ")");
  write("self.yaml", "base: self.yaml\n");
  EXPECT_NE(message("self.yaml").find("circle"), std::string::npos);
}

TEST_F(BaseFiles, BadBases) {
  for (const char* base : {"", "[a, b]", "{a: b}", "\"\"", "~"}) {
    write("leaf.yaml", str("base: ", base, "\n"));
    EXPECT_EQ(message("leaf.yaml"),
              path("leaf.yaml") + ":1: base: names no file; expected a path, relative to this file");
  }
  write("broken.yaml", "train: [\n");
  write("leaf.yaml", "base: broken.yaml\n");
  EXPECT_NE(message("leaf.yaml").find(path("broken.yaml") + ":2: not valid YAML"), std::string::npos)
      << message("leaf.yaml");
  write("leaf.yaml", "train:\n  base: broken.yaml\n");
  EXPECT_NE(message("leaf.yaml").find(":2: train.base: unknown key"), std::string::npos);
}

TEST_F(BaseFiles, AbsoluteBase) {
  write("root.yaml", "train: {steps: 7}\n");
  write("sub/leaf.yaml", "base: " + path("root.yaml") + "\n");
  Sample sample;
  load(path("sub/leaf.yaml"), {}, describing(sample));
  EXPECT_EQ(sample.train.steps, 7);
}

}  // namespace
}  // namespace asplash::config::testing
