// Header fields of HTTP/1 (RFC 9112, 5): what both requests and responses are made of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <l7parsers/fields.hpp>
#include <string_view>
#include <vector>

namespace shunt::proxy {

inline constexpr size_t kFieldsMax = 256;

using l7::Known;
using l7::known_field;
using l7::lower;
using l7::same_name;

// Views of the caller's bytes.
struct Field {
  std::string_view name;
  std::string_view value;  // without white space around it
  Known known = Known::other;
  bool dropped = false;  // ends here: hop by hop, or named by Connection
};

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }

constexpr bool is_alphanumeric(char c) { return is_digit(c) || (lower(c) >= 'a' && lower(c) <= 'z'); }

// RFC 9110, 5.6.2
constexpr bool is_token_character(char c) {
  return is_alphanumeric(c) || (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}

constexpr bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_character);
}

// RFC 9110, 5.5: visible characters, obs-text, space and tab.
constexpr bool is_field_value(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
  });
}

std::string_view trim(std::string_view text);  // of spaces and tabs

// Is the name one of those that frame a message or say where it goes, with any '_' read as '-', as CGI does?
bool is_framing_name(std::string_view name);

enum class FieldsResult : uint8_t { ok, malformed, too_many };

// Reads whole field lines, each with its CR LF, without the empty line at the end. Folded lines, white space before the
// colon and control characters are malformed.
FieldsResult read_fields(std::string_view lines, std::vector<Field>& fields);

// Calls `item` with each element of a comma-separated list (RFC 9110, 5.6.1), without empty ones.
template <typename Item>
void for_each_element(std::string_view list, Item item) {
  for (size_t at = 0; at <= list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    const std::string_view element = trim(list.substr(at, comma - at));
    if (!element.empty()) item(element);
    at = comma + 1;
  }
}

// What Connection fields say, and which fields end here because of them.
struct ConnectionOptions {
  bool close = false;
  bool keep_alive = false;
  bool malformed = false;  // no list of tokens, or it names a field that frames the message
};
ConnectionOptions drop_hop_by_hop(std::vector<Field>& fields);

// How a body ends.
enum class Framing : uint8_t { none, length, chunked, until_close };

struct BodyLength {
  bool malformed = false;     // no two parsers must be trusted to read it alike
  bool other_coding = false;  // a transfer coding besides chunked
  bool has_length = false;
  bool chunked = false;
  uint64_t content_length = 0;
};

// What Content-Length and Transfer-Encoding say (RFC 9112, 6). Both, either repeated, or anything odd is malformed.
BodyLength read_body_length(const std::vector<Field>& fields, int minor);

}  // namespace shunt::proxy
