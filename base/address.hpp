// Addresses as they are shown and as they are written by people. The 16-byte form is that of bpf/abi: network order,
// IPv4 as v4-mapped IPv6.
#pragma once

#include <arpa/inet.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace shunt {

using Address = std::array<uint8_t, 16>;

struct Cidr {
  uint8_t addr[16] = {};      // network order, IPv4 as v4-mapped IPv6
  uint8_t prefix_bits = 128;  // of the 128-bit form: an IPv4 /24 is 120

  bool operator==(const Cidr&) const = default;
};

inline constexpr uint8_t kV4MappedPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

inline bool is_v4_mapped(const uint8_t* addr) {
  return std::memcmp(addr, kV4MappedPrefix, sizeof(kV4MappedPrefix)) == 0;
}

inline std::string format_address(const uint8_t* addr) {
  char text[INET6_ADDRSTRLEN] = {};
  if (is_v4_mapped(addr)) {
    inet_ntop(AF_INET, addr + sizeof(kV4MappedPrefix), text, sizeof(text));
  } else {
    inet_ntop(AF_INET6, addr, text, sizeof(text));
  }
  return text;
}

// "127.0.0.1:80" or "[::1]:80".
inline std::string format_endpoint(const uint8_t* addr, uint16_t port) {
  std::string text = format_address(addr);
  if (!is_v4_mapped(addr)) text = "[" + text + "]";
  return text + ":" + std::to_string(port);
}

inline std::optional<Address> parse_address(std::string_view text) {
  const std::string terminated(text);
  Address addr{};
  if (terminated.find('\0') != std::string::npos) return std::nullopt;
  if (inet_pton(AF_INET6, terminated.c_str(), addr.data()) == 1) return addr;
  std::memcpy(addr.data(), kV4MappedPrefix, sizeof(kV4MappedPrefix));
  if (inet_pton(AF_INET, terminated.c_str(), addr.data() + sizeof(kV4MappedPrefix)) == 1) return addr;
  return std::nullopt;
}

}  // namespace shunt
