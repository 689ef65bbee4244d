// Everything that crosses an interface, raw, and the TCP streams in it.
#pragma once

#include <atomic>
#include <base/unique_fd.hpp>
#include <string>
#include <thread>

#include "ktls/gateway/frames.hpp"
#include "support/sandbox.hpp"

namespace shunt::test {

class Recorder {
 public:
  // Looks for `wanted` in every frame.
  Recorder(const NetNs& ns, const std::string& interface, std::string wanted);
  ~Recorder();

  // After the traffic. Dies if the kernel dropped any frame.
  void stop();
  const Frames& frames() const { return frames_; }

 private:
  void run();

  UniqueFd socket_;
  std::atomic<bool> stopping_{false};
  Frames frames_;
  std::thread thread_;
};

}  // namespace shunt::test
