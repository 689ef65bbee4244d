// Frames of Ethernet that were recorded, raw, and the TCP streams in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace shunt::test {

struct Flow {  // one direction of a connection
  uint32_t from_be = 0, to_be = 0;
  uint16_t from_port = 0, to_port = 0;
  auto operator<=>(const Flow&) const = default;
};

class Frames {
 public:
  // The frame's flow, if it is a whole one of TCP over IPv4.
  std::optional<Flow> take(const uint8_t* frame, size_t bytes);

  const std::string& bytes() const { return bytes_; }  // one frame behind the other
  std::map<Flow, std::string> streams() const;         // each up to the first gap

 private:
  struct Capture {
    uint32_t first = 0;                     // sequence number of the first byte
    std::map<uint32_t, std::string> parts;  // by their distance from it
  };

  std::string bytes_;
  std::map<Flow, Capture> captures_;
};

}  // namespace shunt::test
