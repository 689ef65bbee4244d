// Heads as the proxy sends them on.
#pragma once

#include <fallback-proxy/buffer.hpp>
#include <fallback-proxy/config.hpp>
#include <fallback-proxy/message.hpp>

namespace shunt::proxy {

// The listener's rules, then the route's: one list with the same effect.
HeaderRules merged(const HeaderRules& listener, const HeaderRules& route);

// Upper bounds of what the functions below write.
size_t request_head_bytes_max(const RequestReader& request, const HeaderRules& rules);
size_t response_head_bytes_max(const ResponseReader& response);

// `same_connection`: the server answers the client directly, so it must know the client's version, and whether the
// connection goes on. Otherwise both are the proxy's own affair, and a request without Host goes on as HTTP/1.0.
struct RequestForm {
  bool same_connection = false;
  bool expect = true;  // may Expect: 100-continue go along?
};

// Must fit. What concerns one connection alone is left out.
void write_request_head(Buffer& out, const RequestReader& request, const HeaderRules& rules, RequestForm form = {});

struct ResponseForm {
  int client_minor = 1;
  bool chunked = false;
  bool close = false;
};
void write_response_head(Buffer& out, const ResponseReader& response, const ResponseForm& form);

// A whole response of the proxy's own. `to_head`: without its body.
inline constexpr size_t kOwnResponseBytesMax = 512;
void write_own_response(Buffer& out, int status, std::string_view text, bool to_head, const ResponseForm& form);

}  // namespace shunt::proxy
