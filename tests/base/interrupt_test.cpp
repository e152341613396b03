#include "asplash/base/interrupt.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace asplash {
namespace {

TEST(Interrupt, FirstSignalSetsTheFlag) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const InterruptGuard guard;
    EXPECT_FALSE(interrupted());
    std::raise(signal);
    EXPECT_TRUE(interrupted());
    EXPECT_EQ(interrupt_signal(), signal);
  }
}

TEST(Interrupt, SecondSignalEndsTheProcess) {
  for (const auto& [first, second] :
       {std::pair{SIGINT, SIGINT}, std::pair{SIGTERM, SIGINT}, std::pair{SIGINT, SIGTERM}}) {
    const pid_t child = ::fork();
    if (child == 0) {
      const InterruptGuard guard;
      std::raise(first);
      if (!interrupted()) ::_exit(1);
      std::raise(second);
      ::_exit(2);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == second) << status;
  }
}

TEST(Interrupt, LeavesWhatNohupIgnores) {
  const auto before = std::signal(SIGHUP, SIG_IGN);
  {
    const InterruptGuard guard;
    std::raise(SIGHUP);
    EXPECT_FALSE(interrupted());
  }
  std::signal(SIGHUP, before);
}

TEST(Interrupt, GuardRestoresWhatWasBefore) {
  const auto before = std::signal(SIGTERM, SIG_IGN);
  { const InterruptGuard guard; }
  std::raise(SIGTERM);
  EXPECT_EQ(std::signal(SIGTERM, before), SIG_IGN);
}

}  // namespace
}  // namespace asplash
