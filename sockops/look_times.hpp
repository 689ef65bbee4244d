// When to look again at what changes without telling: once a second, as far as that costs little.
#pragma once

#include <algorithm>
#include <chrono>

namespace shunt {

class LookTimes {
 public:
  using Clock = std::chrono::steady_clock;

  // `told`: an event said that something has come.
  bool are_due(bool told = false) const { return Clock::now() >= (told ? told_ : next_); }
  void begin() {
    began_ = Clock::now();
    next_ = told_ = Clock::time_point::max();
  }
  // The next time is now: something has changed, or the look that has begun does not do all.
  void at_once() { next_ = told_ = {}; }
  void end() {
    const auto now = Clock::now();
    next_ = std::min(next_, now + std::max<Clock::duration>(kEvery, (now - began_) * kShare));
    told_ = std::min(told_, now + (now - began_) * kToldShare);
  }

 private:
  static constexpr auto kEvery = std::chrono::seconds(1);
  static constexpr int kShare = 100;     // looking may cost this part of the time ...
  static constexpr int kToldShare = 10;  // ... and this one while something comes

  Clock::time_point began_, next_, told_;
};

}  // namespace shunt
