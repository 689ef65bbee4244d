// The socket calls that are compared on plain TCP and on the shortcut.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "support/sockets.hpp"

namespace shunt::test {

// Uses a fresh connection and says what it saw, in words that do not depend on timing.
struct SocketCall {
  const char* name;
  std::function<std::string(Connection&)> observe;
};

std::vector<SocketCall> socket_calls();

}  // namespace shunt::test
