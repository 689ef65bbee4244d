// Values as people write them in the configuration and on the command line. Each parser says in its error what is wrong
// with the text and what would be right; where the text stands is for the caller to add.
#pragma once

#include <base/parse.hpp>
#include <base/result.hpp>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace shunt {

Result<uint32_t> parse_user(std::string_view text);                 // a uid or a user's name
Result<uint64_t> parse_bytes(std::string_view text, uint64_t max);  // "4096", "256KiB", "1MiB"
Result<std::chrono::milliseconds> parse_duration(std::string_view text,
                                                 std::chrono::milliseconds max);  // "250ms", "5s", "1m", "0"
Result<std::chrono::milliseconds> parse_timeout(const std::string& text);         // up to a day, and not 0
Result<bool> parse_bool(std::string_view text);                                   // true, false, yes, no, on, off

// The parser of whole numbers from `min` to `max`.
inline auto number_between(uint64_t min, uint64_t max) {
  return [=](const std::string& text) { return parse_number(text, min, max); };
}

// An address and port to listen on: "127.0.0.1:9615", "[::1]:9615".
struct ListenAddress {
  uint8_t addr[16] = {};
  uint16_t port = 0;
};
Result<ListenAddress> parse_listen_address(std::string_view text);

Result<std::string> parse_absolute_path(const std::string& text);  // without ..; a slash at its end is cut

// The text of one regular file of at most so many bytes.
Result<std::string> read_config_text(const std::string& file, size_t bytes_max = size_t{1} << 20);

}  // namespace shunt
