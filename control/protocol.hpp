// The protocol of the control socket: one JSON document a line, in both directions. A request is an object with "cmd";
// the replies are any number of lines of type "row", "event", "lost" or "progress", and one line of type "result" that
// ends them:
//   {"type":"result","ok":true,"data":{...}}
//   {"type":"result","ok":false,"exit":6,"message":"...","remedy":"..."}
#pragma once

#include <base/result.hpp>
#include <control/documents.hpp>
#include <control/exit_codes.hpp>
#include <optional>
#include <policy/explain.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

inline constexpr size_t kRequestBytesMax = 4096;  // a longer line ends the connection
inline constexpr size_t kReplyLineBytesMax = 1 << 20;

enum class Command { status, list, why, monitor, check, version, on, off, reload, policy, trace };

// What changes anything needs root.
bool needs_root(Command command);

// What a client wants to see of rows or events. What is empty or 0 matches everything.
struct Filter {
  uint32_t pid = 0;
  uint16_t port = 0;  // either end's
  std::string program;
  std::vector<std::string> kinds;    // events: event_name(); rows: state_name()
  std::vector<std::string> reasons;  // reason_name()

  bool matches(const Row& row) const;
  bool matches(const sh_event& event) const;
};

// Who asks whom, as people write it, and what for.
struct TraceQuery {
  std::string from;
  std::string to;
  // At most one of them.
  std::optional<policy::HttpRequest> request;
  std::optional<policy::RedisCommand> command;
};

struct Request {
  Command command = Command::status;
  Filter filter;
  uint32_t limit = 0;       // list: rows at most; 0: all
  uint32_t timeout_ms = 0;  // off: how long to drain; 0: as configured
  WhyQuery why;
  TraceQuery trace;
};

// The names of the kinds, states and reasons that a filter may have are checked here. Never throws, whatever the line
// is.
Result<Request> parse_request(std::string_view line);
Json request_document(const Request& request);

const char* command_name(Command command);
std::optional<Command> find_command(std::string_view name);

// Checks a filter's words: `events` says whether `kinds` are events or states.
Result<void> check_filter(const Filter& filter, bool events);

std::string result_line(const Json& data);
std::string failure_line(ExitCode exit, const Error& error);

// "PID" or an address that `why` takes.
Result<WhyQuery> parse_why(std::string_view text);

}  // namespace shunt
