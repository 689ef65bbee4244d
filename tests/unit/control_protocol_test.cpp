#include <gtest/gtest.h>

#include <base/log.hpp>
#include <control/protocol.hpp>
#include <cstring>

namespace shunt {
namespace {

TEST(Protocol, RequestsSurviveTheWay) {
  Request request{.command = Command::list,
                  .filter = {.pid = 7, .port = 80, .program = "nginx", .kinds = {"fast"}, .reasons = {"latch"}},
                  .limit = 9};
  const auto back = parse_request(dump(request_document(request)));
  ASSERT_TRUE(back) << back.error().to_string();
  EXPECT_EQ(back->command, Command::list);
  EXPECT_EQ(back->filter.pid, 7u);
  EXPECT_EQ(back->filter.port, 80);
  EXPECT_EQ(back->filter.program, "nginx");
  EXPECT_EQ(back->filter.kinds, std::vector<std::string>{"fast"});
  EXPECT_EQ(back->filter.reasons, std::vector<std::string>{"latch"});
  EXPECT_EQ(back->limit, 9u);
  request = {.command = Command::why, .why = {.tgid = 3}};
  EXPECT_EQ(parse_request(dump(request_document(request)))->why.tgid, 3u);
  request = {.command = Command::why, .why = {.addr = "[::1]:80"}};
  EXPECT_EQ(parse_request(dump(request_document(request)))->why.addr, "[::1]:80");
  request = {.command = Command::off, .timeout_ms = 5};
  EXPECT_EQ(parse_request(dump(request_document(request)))->timeout_ms, 5u);
}

TEST(Protocol, RefusesWhatIsNoRequest) {
  for (const char* line : {"",
                           "{",
                           "[]",
                           "1",
                           "{}",
                           R"({"cmd":1})",
                           R"({"cmd":"stat"})",
                           R"({"cmd":"status","x":1})",
                           R"({"cmd":"list","pid":-1})",
                           R"({"cmd":"list","pid":"1"})",
                           R"({"cmd":"list","port":65536})",
                           R"({"cmd":"list","kinds":["paired"]})",
                           R"({"cmd":"monitor","kinds":["fast"]})",
                           R"({"cmd":"list","reasons":["no such"]})",
                           R"({"cmd":"list","kinds":"fast"})",
                           R"({"cmd":"why"})",
                           R"({"cmd":"why","pid":1,"addr":":1"})",
                           R"({"cmd":"why","addr":"x"})",
                           R"({"cmd":"why","addr":""})",
                           R"({"cmd":"off","timeout_ms":600001})",
                           R"({"cmd":"trace","from":"host"})",
                           R"({"cmd":"trace","from":"host","to":"web:80","headers":["none"]})",
                           "{\"cmd\":\"status\"}\xff",
                           R"({"cmd":"why","addr":"12"})"}) {
    EXPECT_FALSE(parse_request(line)) << line;
  }
  EXPECT_FALSE(parse_request(std::string(kRequestBytesMax + 1, ' ')));
  EXPECT_FALSE(parse_request(std::string(kRequestBytesMax, '[')));
}

TEST(Protocol, WhatChangesAnythingNeedsRoot) {
  for (const Command command : {Command::on, Command::off, Command::reload}) EXPECT_TRUE(needs_root(command));
  for (const Command command :
       {Command::status, Command::list, Command::why, Command::monitor, Command::check, Command::version}) {
    EXPECT_FALSE(needs_root(command));
  }
}

TEST(Protocol, NoKernelAddressIsShown) {
  Row row{};
  row.raw.sock.peer_sock = 0xffff888000001234;
  row.raw.sock.peer_storage = 0xffff888000005678;
  row.raw.sock.mm = 0xffff88800000abcd;
  const std::string text = dump(row_document(row));
  for (const uint64_t address : {row.raw.sock.peer_sock, row.raw.sock.peer_storage, row.raw.sock.mm}) {
    EXPECT_EQ(text.find(std::to_string(address)), std::string::npos);
  }
}

TEST(Protocol, NamesThatAreNotTextDoNotBreakTheLine) {
  Row row{};
  memset(row.raw.sock.program, 0xff, sizeof(row.raw.sock.program));
  const std::string text = dump(row_document(row));
  EXPECT_TRUE(Json::accept(text));
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST(Protocol, FiltersMatchEitherPort) {
  sh_event event{};
  event.kind = SH_EV_SPILL;
  event.reason = SH_R_BACKLOG;
  event.local_port = 1000;
  event.remote_port = 80;
  event.tgid = 5;
  strcpy(event.program, "curl");
  EXPECT_TRUE(Filter{}.matches(event));
  EXPECT_TRUE(Filter{.port = 80}.matches(event));
  EXPECT_TRUE(Filter{.port = 1000}.matches(event));
  EXPECT_FALSE(Filter{.port = 81}.matches(event));
  EXPECT_TRUE(
      (Filter{.pid = 5, .program = "curl", .kinds = {"latch", "spill"}, .reasons = {"backlog"}}).matches(event));
  EXPECT_FALSE(Filter{.kinds = {"latch"}}.matches(event));
  EXPECT_FALSE(Filter{.reasons = {"memory"}}.matches(event));
}

TEST(Log, LinesCannotBeForged) {
  const auto logfmt = [](std::string_view value) {
    return format_log_line(LogFormat::logfmt, LogLevel::info, "", "a message", {{"key", std::string(value)}});
  };
  EXPECT_EQ(logfmt("plain"), "level=info msg=\"a message\" key=plain");
  EXPECT_EQ(logfmt("a b"), "level=info msg=\"a message\" key=\"a b\"");
  EXPECT_EQ(logfmt("x\nlevel=error"), "level=info msg=\"a message\" key=\"x\\nlevel=error\"");
  EXPECT_EQ(logfmt("say \"x\""), "level=info msg=\"a message\" key=\"say \\\"x\\\"\"");
  EXPECT_EQ(logfmt(""), "level=info msg=\"a message\"");
  EXPECT_EQ(logfmt("\x1b[31m"), "level=info msg=\"a message\" key=\"?[31m\"");
  const std::string json = format_log_line(LogFormat::json, LogLevel::error, "now", "m\n", {{"key", "\xff\""}});
  EXPECT_TRUE(Json::accept(json));
  EXPECT_EQ(json.find('\n'), std::string::npos);
}

TEST(Protocol, ATraceKeepsItsRequest) {
  const policy::HttpRequest asked{.method = "PUT", .path = "/v1", .host = "web", .headers = {{"X-Force", "true"}}};
  const auto parsed =
      parse_request(request_document({.command = Command::trace, .trace = {"4711", "web:80", asked}}).dump());
  ASSERT_TRUE(parsed) << parsed.error().to_string();
  EXPECT_EQ(parsed->trace.from, "4711");
  EXPECT_EQ(parsed->trace.to, "web:80");
  ASSERT_TRUE(parsed->trace.request);
  EXPECT_EQ(parsed->trace.request->method, "PUT");
  EXPECT_EQ(parsed->trace.request->path, "/v1");
  EXPECT_EQ(parsed->trace.request->host, "web");
  EXPECT_EQ(parsed->trace.request->headers, asked.headers);
  EXPECT_FALSE(parse_request(R"({"cmd":"trace","from":"a","to":"b:1"})")->trace.request);
}

TEST(Protocol, ATraceKeepsItsRedisCommand) {
  const policy::RedisCommand asked{"MGET", {"a", "b"}};
  const auto parsed =
      parse_request(request_document({.command = Command::trace, .trace = {"a", "db:1", std::nullopt, asked}}).dump());
  ASSERT_TRUE(parsed) << parsed.error().to_string();
  ASSERT_TRUE(parsed->trace.command);
  EXPECT_EQ(parsed->trace.command->name, "MGET");
  EXPECT_EQ(parsed->trace.command->keys, asked.keys);
  EXPECT_FALSE(parsed->trace.request);
  EXPECT_FALSE(parse_request(R"({"cmd":"trace","from":"a","to":"b:1","command":"GET","method":"GET"})"));
  EXPECT_FALSE(parse_request(R"({"cmd":"trace","from":"a","to":"b:1","keys":["x"]})"));
}

}  // namespace
}  // namespace shunt
