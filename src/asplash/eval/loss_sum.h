#pragma once

#include <cmath>

namespace asplash::eval {

/// The sum of losses, the same bits whatever order they come in: in units of 2^-48 nats, as an integer. What
/// an fp32 loss of 2^-25 or more holds is kept whole; of smaller ones what lies below a unit is cut off.
class LossSum {
 public:
  /// A loss that is finite and of bearable size: more than 2^40 of them fit into the sum.
  static bool takes(float loss) { return std::abs(loss) < 0x1p38F; }
  void add(float loss) { units_ += static_cast<Units>(static_cast<double>(loss) * 0x1p48); }
  void add(const LossSum& other) { units_ += other.units_; }
  /// Nats.
  double value() const { return static_cast<double>(units_) * 0x1p-48; }

 private:
  __extension__ typedef __int128 Units;
  Units units_ = 0;
};

}  // namespace asplash::eval
