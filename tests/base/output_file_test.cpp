#include "asplash/base/output_file.h"

#include "asplash/base/files.h"
#include "base/folder_test.h"

namespace asplash {
namespace {

class OutputFiles : public testing::FolderTest {};

TEST_F(OutputFiles, AreRemovedUnlessTheyAreKept) {
  { OutputFile(path("left")).write("x", 1); }
  EXPECT_EQ(files(), 0U);
  {
    OutputFile file(path("kept"));
    file.write("abc", 3);
    file.sync_and_close();
    file.keep();
  }
  EXPECT_EQ(read_file(path("kept")), "abc");
  {
    OutputFile file(path("renamed.tmp"));
    file.write("______tail", 10);
    file.write_at("header", 6, 0);
    file.sync_and_close();
    file.rename_to(path("renamed"));
  }
  EXPECT_EQ(read_file(path("renamed")), "headertail");
  EXPECT_EQ(files(), 2U);
}

TEST_F(OutputFiles, ErrorsNameTheFileAsTheUserKnowsIt) {
  EXPECT_EQ(testing::error_of([&] { OutputFile(path("no/file")); }),
            "cannot write " + path("no/file") + ": No such file or directory");
  EXPECT_EQ(testing::error_of([&] { OutputFile(path("no/file.tmp"), "file"); }),
            "cannot write file: No such file or directory");
  OutputFile file(path("file"));
  EXPECT_EQ(testing::error_of([&] { file.rename_to(path("no/file")); }),
            "cannot write " + path("no/file") + ": No such file or directory");
}

}  // namespace
}  // namespace asplash
