// Header fields of HTTP/1 by their names: which of them frame a message or concern one connection alone (RFC
// 9110, 7.6.1 and 9112, 6).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace shunt::l7 {

// Fields that whoever forwards a message reads itself or must not forward as they are, and that nobody's rules write.
enum class Known : uint8_t {
  other,
  host,
  content_length,
  transfer_encoding,
  connection,
  expect,
  upgrade,
  http2_settings,
  hop_by_hop,  // Keep-Alive, Proxy-Connection, TE, Trailer
};

constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

constexpr bool same_name(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return lower(x) == lower(y); });
}

constexpr Known known_field(std::string_view name) {
  struct Entry {
    std::string_view name;
    Known known;
  };
  constexpr Entry kEntries[] = {
      {"host", Known::host},
      {"content-length", Known::content_length},
      {"transfer-encoding", Known::transfer_encoding},
      {"connection", Known::connection},
      {"expect", Known::expect},
      {"upgrade", Known::upgrade},
      {"http2-settings", Known::http2_settings},
      {"keep-alive", Known::hop_by_hop},
      {"proxy-connection", Known::hop_by_hop},
      {"te", Known::hop_by_hop},
      {"trailer", Known::hop_by_hop},
  };
  for (const Entry& entry : kEntries) {
    if (same_name(name, entry.name)) return entry.known;
  }
  return Known::other;
}

}  // namespace shunt::l7
