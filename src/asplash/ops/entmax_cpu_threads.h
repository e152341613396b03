#pragma once

#include <cstdint>
#include <functional>

namespace asplash::ops::cpu {

/// What one thread does with unit number `unit`.
using Worker = std::function<void(int64_t unit)>;

/// Runs units 0 .. count - 1 on OpenMP's threads, which are libtorch's intra-op threads; each thread makes
/// one worker (its scratch memory) and takes the next unit when it is done with one. Results must not depend
/// on which worker runs a unit. Little work (`operations` is a rough count over all units) and work inside
/// another parallel region stay on the calling thread. Rethrows a worker's exception.
void run_units(int64_t count, double operations, const std::function<Worker()>& make_worker);

}  // namespace asplash::ops::cpu
