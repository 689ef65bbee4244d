#include <charconv>
#include <fallback-proxy/heads.hpp>

namespace shunt::proxy {
namespace {

constexpr size_t kFramingBytesMax =
    160;  // the version, Content-Length or Transfer-Encoding, Connection, the empty line

void write(Buffer& out, std::initializer_list<std::string_view> parts) {
  for (const std::string_view part : parts) out.append(part);
}

void write_length(Buffer& out, uint64_t length) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof(digits), length);
  write(out, {"Content-Length: ", std::string_view(digits, static_cast<size_t>(end.ptr - digits)), "\r\n"});
}

bool replaced(const HeaderRules& rules, std::string_view name) {
  const auto is_name = [&](const std::string& other) { return same_name(other, name); };
  return std::any_of(rules.remove.begin(), rules.remove.end(), is_name) ||
         std::any_of(rules.set.begin(), rules.set.end(), [&](const NameValue& pair) { return is_name(pair.name); });
}

void write_connection(Buffer& out, const ResponseForm& form) {
  if (form.close) {
    out.append("Connection: close\r\n");
  } else if (form.client_minor == 0) {
    out.append("Connection: keep-alive\r\n");
  }
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 408:
      return "Request Timeout";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 417:
      return "Expectation Failed";
    case 431:
      return "Request Header Fields Too Large";
    case 501:
      return "Not Implemented";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Error";
  }
}

}  // namespace

HeaderRules merged(const HeaderRules& listener, const HeaderRules& route) {
  HeaderRules both = route;
  both.remove.insert(both.remove.end(), listener.remove.begin(), listener.remove.end());
  for (const NameValue& pair : listener.set) {
    if (!replaced(route, pair.name)) both.set.push_back(pair);
  }
  for (const NameValue& pair : listener.add) {
    if (!replaced(route, pair.name)) both.add.insert(both.add.begin(), pair);
  }
  return both;
}

size_t request_head_bytes_max(const RequestReader& request, const HeaderRules& rules) {
  // A field "a:b" grows by the space behind its colon.
  size_t bytes = request.head_bytes() + request.target().size() + request.host().size() + request.fields().size() +
                 kFramingBytesMax;
  for (const auto* pairs : {&rules.set, &rules.add}) {
    for (const NameValue& pair : *pairs) bytes += pair.name.size() + pair.value.size() + 4;
  }
  return bytes;
}

size_t response_head_bytes_max(const ResponseReader& response) {
  return response.head_bytes() + response.fields().size() + kFramingBytesMax;
}

void write_request_head(Buffer& out, const RequestReader& request, const HeaderRules& rules, RequestForm form) {
  const bool speaks_1_1 = form.same_connection ? request.minor() == 1 : request.has_host();
  write(out, {request.method(), " ", request.target(), speaks_1_1 ? " HTTP/1.1\r\n" : " HTTP/1.0\r\n"});
  if (request.has_host()) write(out, {"Host: ", request.host(), "\r\n"});
  for (const Field& field : request.fields()) {
    const bool expects = form.expect && request.expects_continue();
    const bool own = field.known == Known::expect ? !expects : field.known != Known::other;
    if (field.dropped || own || (!rules.empty() && replaced(rules, field.name))) continue;
    write(out, {field.name, ": ", field.value, "\r\n"});
  }
  if (request.framing() == Framing::chunked) out.append("Transfer-Encoding: chunked\r\n");
  if (request.has_content_length()) write_length(out, request.content_length());
  if (form.same_connection) write_connection(out, {request.minor(), false, !request.keep_alive()});
  for (const auto* pairs : {&rules.set, &rules.add}) {
    for (const NameValue& pair : *pairs) write(out, {pair.name, ": ", pair.value, "\r\n"});
  }
  out.append("\r\n");
}

void write_response_head(Buffer& out, const ResponseReader& response, const ResponseForm& form) {
  char status[4];
  std::to_chars(status, status + sizeof(status), response.status());
  write(out, {"HTTP/1.1 ", std::string_view(status, 3), " ", response.reason_phrase(), "\r\n"});
  for (const Field& field : response.fields()) {
    const bool own = field.known == Known::content_length || field.known == Known::transfer_encoding ||
                     field.known == Known::upgrade;
    if (!field.dropped && !own) write(out, {field.name, ": ", field.value, "\r\n"});
  }
  if (response.interim()) return out.append("\r\n");
  if (form.chunked) {
    out.append("Transfer-Encoding: chunked\r\n");
  } else if (response.has_content_length() && response.status() != 204) {
    write_length(out, response.content_length());
  }
  write_connection(out, form);
  out.append("\r\n");
}

void write_own_response(Buffer& out, int status, std::string_view text, bool to_head, const ResponseForm& form) {
  char digits[4];
  std::to_chars(digits, digits + sizeof(digits), status);
  write(out,
        {"HTTP/1.1 ", std::string_view(digits, 3), " ", reason_phrase(status), "\r\nContent-Type: text/plain\r\n"});
  write_length(out, text.size() + 2);
  write_connection(out, form);
  out.append("\r\n");
  if (!to_head) write(out, {text, "\r\n"});
}

}  // namespace shunt::proxy
