#pragma once

#include <csignal>

namespace asplash {

/// While it lives, the first SIGINT, SIGTERM or SIGHUP (unless that is ignored, as nohup does) only sets a
/// flag that a loop asks for with interrupted(); a second one ends the process at once, as it would have
/// without the guard. SIGXFSZ is ignored meanwhile, so that a file-size limit is an error of the write and
/// not the end of the process. One guard at a time, made before other threads start; the destructor restores
/// what was before.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_int_ {};
  struct sigaction before_term_ {};
  struct sigaction before_hang_up_ {};
  struct sigaction before_file_size_ {};
};

/// A signal arrived since the guard was made. Safe from any thread.
bool interrupted();
/// Its number, 0 if none arrived.
int interrupt_signal();

}  // namespace asplash
