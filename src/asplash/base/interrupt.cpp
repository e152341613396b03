#include "asplash/base/interrupt.h"

#include <atomic>

namespace asplash {
namespace {

// A signal handler can reach nothing but static state.
std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "needed in a signal handler");

extern "C" void asplash_handle_interrupt(int signal) {
  int none = 0;
  if (received.compare_exchange_strong(none, signal)) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);  // delivered when this handler returns
}

}  // namespace

InterruptGuard::InterruptGuard() {
  received = 0;
  struct sigaction action {};
  action.sa_handler = asplash_handle_interrupt;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before_int_);
  sigaction(SIGTERM, &action, &before_term_);
  sigaction(SIGHUP, &action, &before_hang_up_);
  if (before_hang_up_.sa_handler == SIG_IGN) sigaction(SIGHUP, &before_hang_up_, nullptr);  // nohup
  action.sa_handler = SIG_IGN;
  sigaction(SIGXFSZ, &action, &before_file_size_);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &before_int_, nullptr);
  sigaction(SIGTERM, &before_term_, nullptr);
  sigaction(SIGHUP, &before_hang_up_, nullptr);
  sigaction(SIGXFSZ, &before_file_size_, nullptr);
}

bool interrupted() { return received != 0; }

int interrupt_signal() { return received; }

}  // namespace asplash
