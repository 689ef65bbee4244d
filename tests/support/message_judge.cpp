#include "support/message_judge.hpp"

#include <fallback-proxy/body.hpp>

#include "support/llhttp_head.hpp"

namespace shunt::test {
namespace {

using proxy::BodyOutput;
using proxy::BodyRelay;
using proxy::BodyState;
using proxy::Buffer;
using proxy::HeadState;

constexpr size_t kHeadBytesMax = 64 << 10;

struct Reading : LlhttpHead {
  std::string body;
};

llhttp_settings_t settings() {
  llhttp_settings_t made;
  LlhttpHead::take(made);
  made.on_headers_complete = [](llhttp_t* parser) {
    LlhttpHead::of(parser).head_complete = true;
    return 0;
  };
  made.on_body = [](llhttp_t* parser, const char* at, size_t length) {
    static_cast<Reading&>(LlhttpHead::of(parser)).body.append(at, length);
    return 0;
  };
  return made;
}

void read_body(const proxy::RequestReader& reader, std::string_view bytes, size_t cut, WholeRequest& request) {
  BodyRelay relay;
  relay.begin(reader.framing(), reader.content_length(), BodyOutput::raw, false);
  Buffer in(bytes.size() + 1);
  Buffer out(bytes.size() + 1);
  const size_t begin = reader.head_bytes();
  const size_t middle = std::max(begin, std::min(cut, bytes.size()));
  BodyState state = BodyState::more;
  size_t given = begin;
  for (const size_t end : {middle, bytes.size()}) {
    in.append(bytes.substr(given, end - given));
    given = end;
    state = relay.move(in, out);
    if (state != BodyState::more) break;
  }
  request.complete = state == BodyState::done;
  request.body = out.bytes();
  request.bytes = given - in.size();
}

}  // namespace

WholeRequest read_whole(std::string_view bytes, size_t cut) {
  proxy::RequestReader reader(kHeadBytesMax);
  WholeRequest request;
  reader.reset();
  request.head = reader.read(bytes.substr(0, std::min(cut, bytes.size())));
  if (request.head == HeadState::incomplete) request.head = reader.read(bytes);
  if (request.head != HeadState::complete) return request;
  request.method = reader.method();
  request.raw_target = reader.raw_target();
  request.minor = reader.minor();
  request.keep_alive = reader.keep_alive();
  for (const proxy::Field& field : reader.fields()) request.fields.emplace_back(field.name, field.value);
  read_body(reader, bytes, cut, request);
  return request;
}

std::string judge_message(const WholeRequest& request, std::string_view bytes) {
  const llhttp_settings_t all = settings();
  llhttp_t parser;
  Reading read;
  llhttp_init(&parser, HTTP_REQUEST, &all);
  parser.data = static_cast<LlhttpHead*>(&read);
  const llhttp_errno_t error = llhttp_execute(&parser, bytes.data(), bytes.size());
  // It knows a list of methods, and has a narrower grammar of what stands behind the size of a chunk, which the proxy
  // does not forward.
  const std::string why = llhttp_get_error_reason(&parser) != nullptr ? llhttp_get_error_reason(&parser) : "";
  const bool extension = why.find("chunk extension") != std::string::npos ||
                         (why.find("chunk size") != std::string::npos && bytes.find(';') != std::string_view::npos);
  if (error == HPE_INVALID_METHOD || extension) return {};
  if (error != HPE_PAUSED || !read.message_complete)
    return std::string("llhttp sees no end: ") + llhttp_errno_name(error) + " " + why;
  if (static_cast<size_t>(llhttp_get_error_pos(&parser) - bytes.data()) != request.bytes)
    return "the request ends elsewhere";
  if (read.method != request.method) return "another method: " + read.method;
  if (read.target != request.raw_target) return "another target: " + read.target;
  if (parser.http_minor != request.minor) return "another version";
  if (read.body != request.body) return "another body";
  if (read.headers.size() != request.fields.size()) return "other fields";
  for (size_t i = 0; i < read.headers.size(); i++) {
    if (read.headers[i].first != request.fields[i].first) return "another name: " + read.headers[i].first;
    if (proxy::trim(read.headers[i].second) != request.fields[i].second)
      return "another value: " + read.headers[i].second;
  }
  return {};
}

}  // namespace shunt::test
