// Everything that crosses an interface, raw, and the TCP streams in it.
#pragma once

#include <atomic>
#include <base/unique_fd.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <thread>

#include "support/sandbox.hpp"

namespace shunt::test {

struct Flow {  // one direction of a connection
  uint32_t from_be = 0, to_be = 0;
  uint16_t from_port = 0, to_port = 0;
  auto operator<=>(const Flow&) const = default;
};

class Recorder {
 public:
  Recorder(const NetNs& ns, const std::string& interface);
  ~Recorder();

  // After the traffic: what the frames hold. Dies if the kernel dropped any.
  void stop();
  const std::string& frames() const { return frames_; }
  std::map<Flow, std::string> streams() const;

 private:
  struct Capture {
    uint32_t first = 0;                     // sequence number of the first byte
    std::map<uint32_t, std::string> parts;  // by their distance from it
  };

  void run();
  void take(const uint8_t* frame, size_t bytes);

  UniqueFd socket_;
  std::atomic<bool> stopping_{false};
  std::string frames_;
  std::map<Flow, Capture> captures_;
  std::thread thread_;
};

}  // namespace shunt::test
