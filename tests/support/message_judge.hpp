// A whole request as the proxy reads it, body and all, and another parser's opinion of it.
#pragma once

#include <fallback-proxy/message.hpp>
#include <string>
#include <string_view>

namespace shunt::test {

struct WholeRequest {
  proxy::HeadState head = proxy::HeadState::incomplete;
  bool complete = false;  // with its body
  std::string method, raw_target;
  int minor = 0;
  bool keep_alive = false;
  std::vector<std::pair<std::string, std::string>> fields;
  std::string body;
  size_t bytes = 0;  // of the input, when complete
};

// The first `cut` bytes come before the rest.
WholeRequest read_whole(std::string_view bytes, size_t cut);

// What llhttp, in its strict mode, reads in another way; empty: nothing. For requests that the proxy has read whole.
std::string judge_message(const WholeRequest& request, std::string_view bytes);

}  // namespace shunt::test
