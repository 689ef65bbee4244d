// Numbers and networks as people write them. The errors say what is wrong with the text and what would be right; where
// it stands is for the caller to add.
#pragma once

#include <algorithm>
#include <base/address.hpp>
#include <base/printable.hpp>
#include <base/result.hpp>
#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>

namespace shunt {

inline Unexpected invalid(std::string message, std::string remedy = {}) {
  return unexpected(Error{EINVAL, std::move(message), std::move(remedy)});
}

inline Result<uint64_t> parse_number(std::string_view text, uint64_t min, uint64_t max) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < min || number > max) {
    return invalid(in_quotes(text) + " is not a whole number from " + std::to_string(min) + " to " +
                   std::to_string(max));
  }
  return number;
}

// "10.0.0.0/8", "::1", "127.0.0.1"
inline Result<Cidr> parse_cidr(std::string_view text) {
  const size_t slash = text.find('/');
  const auto addr = parse_address(text.substr(0, slash));
  if (!addr) {
    return invalid(in_quotes(text) + " is not an address or a network", "write 10.0.0.0/8, fd00::/8 or one address");
  }
  const bool is_v4 = text.substr(0, slash).find(':') == std::string_view::npos;
  const unsigned width = is_v4 ? 32 : 128;
  unsigned prefix = width;
  if (slash != std::string_view::npos) {
    const auto number = parse_number(text.substr(slash + 1), 0, width);
    if (!number) {
      return invalid(in_quotes(text) + " has no valid prefix length",
                     "write a number from 0 to " + std::to_string(width));
    }
    prefix = static_cast<unsigned>(*number);
  }
  Cidr cidr;
  cidr.prefix_bits = static_cast<uint8_t>(prefix + 128 - width);
  Address network = *addr;
  for (unsigned bit = cidr.prefix_bits; bit < 128; bit++) {
    network[bit / 8] = static_cast<uint8_t>(network[bit / 8] & ~(0x80u >> (bit % 8)));
  }
  if (network != *addr) {
    return invalid(in_quotes(text) + " has bits set after its prefix",
                   "write " + format_address(network.data()) + "/" + std::to_string(prefix));
  }
  std::copy(addr->begin(), addr->end(), cidr.addr);
  return cidr;
}

}  // namespace shunt
