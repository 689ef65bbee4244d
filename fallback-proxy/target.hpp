// Request targets in their normal form (RFC 3986, 6.2.2): what is judged is what is forwarded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shunt::proxy {

// Appends the normal form of a path with its query to `out`: escapes of unreserved characters undone and the others in
// capitals, "." and ".." resolved, empty segments joined, and characters that no URI holds but browsers send ('|', '{')
// escaped. The query stays as it is. False: two servers may look up different things (an escaped slash, backslash or
// control character, a broken escape, ".." above the root or with parameters, bytes above 127, a fragment).
bool normalise_path(std::string_view path_and_query, std::string& out);

enum class TargetForm : uint8_t { origin, absolute, asterisk, refused };

struct Target {
  TargetForm form = TargetForm::refused;
  std::string_view path_and_query;  // of the target; empty where an absolute one has none
  std::string_view authority;       // of an absolute target
};

// Which form a target has (RFC 9112, 3.2). Authority form is CONNECT's, and refused.
Target split_target(std::string_view method, std::string_view target);

// A host name, IPv4 address or bracketed IPv6 address, with an optional port.
bool is_host(std::string_view text);

// The same server: case and the default port do not count.
bool same_host(std::string_view a, std::string_view b);

}  // namespace shunt::proxy
