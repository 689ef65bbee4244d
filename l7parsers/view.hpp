// What the C++ faces of all protocols share.
#pragma once

#include <l7parsers/core/outcome.h>

#include <algorithm>
#include <string_view>

namespace shunt::l7 {

// The stable name of a reason ("bare-lf"), and what it means to people.
constexpr std::string_view reason_name(l7_reason reason) {
  constexpr std::string_view kNames[] = {
#define L7_REASON_NAME(id, name, text) name,
      L7_REASONS(L7_REASON_NAME)
#undef L7_REASON_NAME
  };
  return kNames[reason];
}

constexpr std::string_view reason_text(l7_reason reason) {
  constexpr std::string_view kTexts[] = {
#define L7_REASON_TEXT(id, name, text) text,
      L7_REASONS(L7_REASON_TEXT)
#undef L7_REASON_TEXT
  };
  return kTexts[reason];
}

// The core's input over the caller's bytes, which it only refers to. Bytes behind the window are left out.
inline l7_input input_over(std::string_view bytes) {
  return {reinterpret_cast<const l7_u8*>(bytes.data()), l7_u32(std::min<size_t>(bytes.size(), L7_WINDOW_BYTES))};
}

inline std::string_view slice(std::string_view bytes, l7_range range) { return bytes.substr(range.off, range.len); }

}  // namespace shunt::l7
