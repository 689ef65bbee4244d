// Text that comes from elsewhere, made fit for one line of a log or a terminal.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace shunt {

inline bool is_control_character(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

// Control characters become '?': no line break, and nothing that moves a cursor.
inline std::string printable(std::string text) {
  std::replace_if(text.begin(), text.end(), is_control_character, '?');
  return text;
}

// 'text', cut where it is long.
inline std::string in_quotes(std::string_view text) {
  constexpr size_t kShownMax = 64;
  return "'" + printable(std::string(text.substr(0, kShownMax))) + (text.size() > kShownMax ? "…'" : "'");
}

}  // namespace shunt
