// The clock that timeouts are measured by.
#pragma once

#include <chrono>

namespace shunt {

using Milliseconds = std::chrono::milliseconds;

inline Milliseconds steady_now() {
  return std::chrono::duration_cast<Milliseconds>(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace shunt
