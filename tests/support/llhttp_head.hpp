// What llhttp reads of a head, for who wants its opinion: derive from it, and let parser.data point to it.
#pragma once

#include <llhttp/llhttp.h>

#include <string>
#include <utility>
#include <vector>

namespace shunt::test {

struct LlhttpHead {
  std::string method;
  std::string target;
  std::vector<std::pair<std::string, std::string>> headers;
  bool name_ended = true;
  bool head_complete = false;  // for the including side to set, at the end of the head: what follows are trailers
  bool message_complete = false;

  static LlhttpHead& of(llhttp_t* parser) { return *static_cast<LlhttpHead*>(parser->data); }

  // Sets all that fill it but for the end of the head. It pauses at the end of the message.
  static void take(llhttp_settings_t& settings) {
    llhttp_settings_init(&settings);
    settings.on_method = [](llhttp_t* parser, const char* at, size_t length) {
      of(parser).method.append(at, length);
      return 0;
    };
    settings.on_url = [](llhttp_t* parser, const char* at, size_t length) {
      of(parser).target.append(at, length);
      return 0;
    };
    settings.on_header_field = [](llhttp_t* parser, const char* at, size_t length) {
      LlhttpHead& head = of(parser);
      if (head.head_complete) return 0;
      if (head.name_ended) head.headers.emplace_back();
      head.name_ended = false;
      head.headers.back().first.append(at, length);
      return 0;
    };
    settings.on_header_field_complete = [](llhttp_t* parser) {
      of(parser).name_ended = true;
      return 0;
    };
    settings.on_header_value = [](llhttp_t* parser, const char* at, size_t length) {
      if (!of(parser).head_complete) of(parser).headers.back().second.append(at, length);
      return 0;
    };
    settings.on_message_complete = [](llhttp_t* parser) -> int {
      of(parser).message_complete = true;
      return HPE_PAUSED;
    };
  }
};

}  // namespace shunt::test
