#include "support/l7_judge.hpp"

#include <algorithm>
#include <vector>

#include "support/llhttp_head.hpp"

namespace shunt::test {
namespace {

// Of longer bodies only the length is compared.
constexpr size_t kBodyBytesMax = 65536;

// What llhttp has read.
struct Reading : LlhttpHead {
  llhttp_t parser = {};
  bool response_to_head = false;
  size_t body_bytes = 0;
  // When the head was complete.
  uint64_t content_length = 0;
  unsigned flags = 0;
  bool needs_eof = false;
  bool keep_alive = false;
};

Reading& reading(llhttp_t* parser) { return static_cast<Reading&>(LlhttpHead::of(parser)); }

int on_head_end(llhttp_t* parser) {
  Reading& read = reading(parser);
  if (read.response_to_head) parser->flags |= F_SKIPBODY;  // which returning 1 would do, but it must return HPE_PAUSED
  read.head_complete = true;
  read.content_length = parser->content_length;
  read.flags = parser->flags;
  read.needs_eof = llhttp_message_needs_eof(parser);
  read.keep_alive = llhttp_should_keep_alive(parser);
  return HPE_PAUSED;
}

int on_body(llhttp_t* parser, const char*, size_t length) {
  reading(parser).body_bytes += length;
  return 0;
}

const llhttp_settings_t& settings() {
  static const llhttp_settings_t all = [] {
    llhttp_settings_t made;
    LlhttpHead::take(made);
    made.on_headers_complete = on_head_end;
    made.on_body = on_body;
    return made;
  }();
  return all;
}

// Collects differences.
class Differences {
 public:
  template <typename Value>
  void compare(const char* what, const Value& ours, const Value& theirs) {
    if (ours != theirs) add(std::string(what) + ": " + shown(ours) + ", but llhttp: " + shown(theirs));
  }
  void add(const std::string& text) { text_ += text_.empty() ? text : "; " + text; }
  const std::string& text() const { return text_; }

 private:
  static std::string shown(const std::string& value) { return "\"" + value + "\""; }
  static std::string shown(uint64_t value) { return std::to_string(value); }
  std::string text_;
};

void compare_heads(const l7::Http1Head& head, const Reading& read, Differences* found) {
  const l7_http1& raw = head.raw();
  const bool request = raw.kind == L7_HTTP1_REQUEST;
  if (request) {
    found->compare("method", std::string(head.method()), read.method);
    found->compare("method's number", std::string(head.method()),
                   std::string(llhttp_method_name(llhttp_method(read.parser.method))));
    found->compare("target", std::string(head.target()), read.target);
  } else {
    found->compare<uint64_t>("status", raw.status, read.parser.status_code);
  }
  found->compare<uint64_t>("major version", 1, read.parser.http_major);
  found->compare<uint64_t>("minor version", raw.minor, read.parser.http_minor);
  found->compare<uint64_t>("fields", head.header_count(), read.headers.size());
  for (size_t i = 0; i < std::min(head.header_count(), read.headers.size()); i++) {
    found->compare("name", std::string(head.header_name(i)), read.headers[i].first);
    found->compare("value", std::string(head.header_value(i)), read.headers[i].second);
  }
  found->compare<uint64_t>("content length", raw.content_length, read.content_length);
  found->compare<uint64_t>("has content length", !!(raw.flags & L7_F_CONTENT_LENGTH),
                           !!(read.flags & F_CONTENT_LENGTH));
  found->compare<uint64_t>("chunked", !!(raw.flags & L7_F_CHUNKED), !!(read.flags & F_CHUNKED));
  found->compare<uint64_t>("upgrade", 0, read.parser.upgrade);
  found->compare<uint64_t>("ends with the connection", raw.framing == L7_FRAMING_UNTIL_CLOSE, read.needs_eof);
  found->compare<uint64_t>("keep-alive", head.keep_alive(), read.keep_alive);
}

// The body: where does the message end?
void compare_ends(const l7::Http1Head& head, std::string_view bytes, Reading* read, Differences* found) {
  const l7_outcome& out = head.outcome();
  llhttp_resume(&read->parser);
  if (out.unit_bytes == L7_BYTES_UNKNOWN) {
    // The end is not known from the head: then llhttp must not see it there either.
    llhttp_execute(&read->parser, "", 0);
    if (read->message_complete) found->add("llhttp sees an end where the head tells none");
    return;
  }
  const uint64_t body_bytes = out.unit_bytes - out.head_bytes;
  if (body_bytes > kBodyBytesMax) return;
  std::string rest(bytes.substr(out.head_bytes));
  rest.resize(body_bytes, '.');
  rest += "GET";  // what follows is not the body's
  const llhttp_errno_t error = llhttp_execute(&read->parser, rest.data(), rest.size());
  if (error != HPE_PAUSED || !read->message_complete) {
    found->add(std::string("llhttp sees no end of the body: ") + llhttp_errno_name(error));
    return;
  }
  found->compare<uint64_t>("body", body_bytes, read->body_bytes);
  found->compare<uint64_t>("end of the body", body_bytes, uint64_t(llhttp_get_error_pos(&read->parser) - rest.data()));
}

}  // namespace

std::string l7_judge(const l7::Http1Head& head, std::string_view bytes) {
  Reading read;
  Differences found;
  const l7_http1& raw = head.raw();
  llhttp_init(&read.parser, raw.kind == L7_HTTP1_REQUEST ? HTTP_REQUEST : HTTP_RESPONSE, &settings());
  read.parser.data = static_cast<LlhttpHead*>(&read);
  read.response_to_head = raw.kind == L7_HTTP1_RESPONSE_TO_HEAD;
  const llhttp_errno_t error = llhttp_execute(&read.parser, bytes.data(), bytes.size());
  if (error != HPE_PAUSED || !read.head_complete) {
    const char* reason = llhttp_get_error_reason(&read.parser);
    return std::string("llhttp refuses it: ") + llhttp_errno_name(error) + " " + (reason ? reason : "");
  }
  found.compare<uint64_t>("head", raw.out.head_bytes, uint64_t(llhttp_get_error_pos(&read.parser) - bytes.data()));
  compare_heads(head, read, &found);
  compare_ends(head, bytes, &read, &found);
  return found.text();
}

}  // namespace shunt::test
