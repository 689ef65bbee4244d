// Frames of Ethernet that were recorded, raw, and the TCP streams in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace shunt::test {

struct Flow {  // one direction of a connection
  uint32_t from_be = 0, to_be = 0;
  uint16_t from_port = 0, to_port = 0;
  auto operator<=>(const Flow&) const = default;
};

// The frame's, if it is a whole one of TCP over IPv4.
std::optional<Flow> flow_of(const uint8_t* frame, size_t bytes);

class Frames {
 public:
  // Looks for `wanted` in every frame.
  explicit Frames(std::string wanted) : wanted_(std::move(wanted)) {}

  void take(const uint8_t* frame, size_t bytes);

  bool saw() const { return saw_; }  // `wanted`
  // The stream of each flow up to its first gap, one after the other: together they may be more than memory has room
  // for twice.
  void for_each_stream(const std::function<void(const Flow&, const std::string&)>& look) const;

 private:
  struct Capture {
    uint32_t first = 0;                     // sequence number of the first byte
    std::map<uint32_t, std::string> parts;  // by their distance from it
  };

  static std::string stream_of(const Capture& capture);

  std::string wanted_;
  bool saw_ = false;
  std::map<Flow, std::vector<Capture>> captures_;  // connections one after the other: ports are used again
};

}  // namespace shunt::test
