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
  Recorder(const NetNs& ns, const std::string& interface);
  ~Recorder();

  // After the traffic: what the frames hold. Dies if the kernel dropped any.
  void stop();
  const std::string& frames() const { return frames_.bytes(); }
  std::map<Flow, std::string> streams() const { return frames_.streams(); }

 private:
  void run();

  UniqueFd socket_;
  std::atomic<bool> stopping_{false};
  Frames frames_;
  std::thread thread_;
};

}  // namespace shunt::test
