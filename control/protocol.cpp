#include <algorithm>
#include <base/nearest.hpp>
#include <base/printable.hpp>
#include <control/protocol.hpp>
#include <control/values.hpp>

namespace shunt {
namespace {

struct CommandEntry {
  Command command;
  const char* name;
  bool needs_root;
};

constexpr CommandEntry kCommands[] = {
    {Command::status, "status", false}, {Command::list, "list", false},
    {Command::why, "why", false},       {Command::monitor, "monitor", false},
    {Command::check, "check", false},   {Command::version, "version", false},
    {Command::on, "on", true},          {Command::off, "off", true},
    {Command::reload, "reload", true},  {Command::policy, "policy", false},
    {Command::trace, "trace", false},
};

constexpr size_t kFilterWordsMax = SH_REASON_COUNT;

Unexpected refused(std::string message, std::string remedy = {}) {
  return unexpected(Error{EINVAL, std::move(message), std::move(remedy)});
}

const CommandEntry& entry_of(Command command) {
  return *std::find_if(std::begin(kCommands), std::end(kCommands),
                       [&](const CommandEntry& entry) { return entry.command == command; });
}

template <typename T>
bool read_number(const Json& value, uint64_t max, T& target) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > max) return false;
  target = static_cast<T>(value.get<uint64_t>());
  return true;
}

bool read_words(const Json& value, std::vector<std::string>& words) {
  if (!value.is_array() || value.size() > kFilterWordsMax) return false;
  for (const Json& word : value) {
    if (!word.is_string()) return false;
    words.push_back(word.get<std::string>());
  }
  return true;
}

bool read_text(const Json& value, std::string& text) {
  if (!value.is_string()) return false;
  text = value.get<std::string>();
  return true;
}

bool read_headers(const Json& value, policy::HttpRequest& request) {
  std::vector<std::string> lines;
  if (!read_words(value, lines)) return false;
  for (const std::string& line : lines) {
    auto header = policy::parse_header(line);
    if (!header) return false;
    request.headers.push_back(std::move(*header));
  }
  return true;
}

// Any of these fields makes it a question about a request.
policy::HttpRequest& request_of(TraceQuery& trace) { return trace.request ? *trace.request : trace.request.emplace(); }

policy::RedisCommand& command_of(TraceQuery& trace) { return trace.command ? *trace.command : trace.command.emplace(); }

// As read_field().
std::optional<bool> read_trace_field(const std::string& key, const Json& value, TraceQuery& trace) {
  if (key == "from") return read_text(value, trace.from);
  if (key == "to") return read_text(value, trace.to);
  if (key == "method") return read_text(value, request_of(trace).method);
  if (key == "path") return read_text(value, request_of(trace).path);
  if (key == "host") return read_text(value, request_of(trace).host);
  if (key == "headers") return read_headers(value, request_of(trace));
  if (key == "command") return read_text(value, command_of(trace).name);
  if (key == "keys") return read_words(value, command_of(trace).keys);
  return std::nullopt;
}

// False: the value is of the wrong kind. Nothing: the key is unknown.
std::optional<bool> read_field(const std::string& key, const Json& value, Request& request) {
  constexpr uint32_t kTimeoutMsMax = 600'000;
  if (key == "cmd") return true;
  if (key == "pid") return read_number(value, UINT32_MAX, request.filter.pid);
  if (key == "port") return read_number(value, UINT16_MAX, request.filter.port);
  if (key == "program") return read_text(value, request.filter.program);
  if (key == "kinds") return read_words(value, request.filter.kinds);
  if (key == "reasons") return read_words(value, request.filter.reasons);
  if (key == "limit") return read_number(value, UINT32_MAX, request.limit);
  if (key == "timeout_ms") return read_number(value, kTimeoutMsMax, request.timeout_ms);
  if (key == "addr") return read_text(value, request.why.addr);
  return read_trace_field(key, value, request.trace);
}

void add_trace(const TraceQuery& trace, Json& document) {
  document["from"] = trace.from;
  document["to"] = trace.to;
  if (trace.command) document["command"] = trace.command->name;
  if (trace.command && !trace.command->keys.empty()) document["keys"] = trace.command->keys;
  if (!trace.request) return;
  document["method"] = trace.request->method;
  document["path"] = trace.request->path;
  if (!trace.request->host.empty()) document["host"] = trace.request->host;
  for (const auto& [name, value] : trace.request->headers) document["headers"].push_back(name + ": " + value);
}

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return words.empty() || std::find(words.begin(), words.end(), word) != words.end();
}

Result<void> check_words(const std::vector<std::string>& words, const std::vector<std::string>& known,
                         const std::string& what) {
  for (const std::string& word : words) {
    if (std::find(known.begin(), known.end(), word) != known.end()) continue;
    const auto meant = nearest(word, known);
    std::string all;
    for (const std::string& name : known) all += (all.empty() ? "one of " : ", ") + name;
    return refused(in_quotes(word) + " is not " + what, meant ? "did you mean '" + *meant + "'?" : all);
  }
  return {};
}

}  // namespace

bool needs_root(Command command) { return entry_of(command).needs_root; }

const char* command_name(Command command) { return entry_of(command).name; }

std::optional<Command> find_command(std::string_view name) {
  for (const CommandEntry& entry : kCommands) {
    if (name == entry.name) return entry.command;
  }
  return std::nullopt;
}

bool Filter::matches(const Row& row) const {
  const sh_sock& sock = row.raw.sock;
  return (pid == 0 || sock.tgid == pid) && (port == 0 || sock.local_port == port || sock.remote_port == port) &&
         (program.empty() || program_name(sock.program) == program) && contains(kinds, state_name(sock.state)) &&
         contains(reasons, reason_name(sock.reason));
}

bool Filter::matches(const sh_event& event) const {
  return (pid == 0 || event.tgid == pid) && (port == 0 || event.local_port == port || event.remote_port == port) &&
         (program.empty() || program_name(event.program) == program) && contains(kinds, event_name(event.kind)) &&
         contains(reasons, reason_name(event.reason));
}

Result<void> check_filter(const Filter& filter, bool events) {
  std::vector<std::string> kinds;
  if (events) {
    for (uint32_t kind = 1; kind < kEventKindCount; kind++) {
      if (kind != SH_EV_ABANDONED && kind != SH_EV_GUARD) kinds.emplace_back(event_name(kind));  // the engine's own
    }
  } else {
    for (uint32_t state = 0; state < kStateCount; state++) kinds.emplace_back(state_name(state));
  }
  std::vector<std::string> reasons;
  for (uint32_t reason = 0; reason < SH_REASON_COUNT; reason++) reasons.emplace_back(reason_name(reason));
  auto checked = check_words(filter.kinds, kinds, events ? "a kind of event" : "a state");
  if (!checked) return checked;
  return check_words(filter.reasons, reasons, "a reason");
}

Result<Request> parse_request(std::string_view line) {
  if (line.size() > kRequestBytesMax) return refused("the request is too long");
  const Json document = Json::parse(line, nullptr, false);
  if (document.is_discarded() || !document.is_object()) return refused("a request is one JSON object on one line");
  const auto name = document.find("cmd");
  if (name == document.end() || !name->is_string()) return refused("a request needs \"cmd\"");
  const auto command = find_command(name->get_ref<const std::string&>());
  if (!command) return refused("this daemon does not know the command", "are shunt and shuntd of one version?");
  Request request;
  request.command = *command;
  for (const auto& [key, value] : document.items()) {
    const auto right = read_field(key, value, request);
    if (!right) return refused("unknown field in the request", "are shunt and shuntd of one version?");
    if (!*right) return refused("the value of \"" + key + "\" is not of the right kind");
  }
  request.why.tgid = request.filter.pid;
  if (request.command == Command::why) {
    if ((request.why.tgid == 0) == request.why.addr.empty()) return refused("why takes one of \"pid\" and \"addr\"");
    if (request.why.tgid == 0) {
      auto query = parse_why(request.why.addr);
      if (!query) return unexpected(query.error());
      if (query->tgid != 0) return refused("\"addr\" is not an address");
    }
  }
  if (request.command == Command::trace && (request.trace.from.empty() || request.trace.to.empty()))
    return refused("trace takes \"from\" and \"to\"");
  if (request.trace.command && (request.trace.request || request.trace.command->name.empty()))
    return refused("trace takes a request, or a \"command\" with its \"keys\"");
  auto checked = check_filter(request.filter, request.command == Command::monitor);
  if (!checked) return unexpected(checked.error());
  return request;
}

Json request_document(const Request& request) {
  Json document{{"cmd", command_name(request.command)}};
  const Filter& filter = request.filter;
  const uint32_t pid = request.command == Command::why ? request.why.tgid : filter.pid;
  if (pid != 0) document["pid"] = pid;
  if (filter.port != 0) document["port"] = filter.port;
  if (!filter.program.empty()) document["program"] = filter.program;
  if (!filter.kinds.empty()) document["kinds"] = filter.kinds;
  if (!filter.reasons.empty()) document["reasons"] = filter.reasons;
  if (request.limit != 0) document["limit"] = request.limit;
  if (request.timeout_ms != 0) document["timeout_ms"] = request.timeout_ms;
  if (!request.why.addr.empty()) document["addr"] = request.why.addr;
  if (request.command == Command::trace) add_trace(request.trace, document);
  return document;
}

std::string result_line(const Json& data) {
  return dump(Json{{"type", "result"}, {"ok", true}, {"data", data}}) + "\n";
}

std::string failure_line(ExitCode exit, const Error& error) {
  return dump(Json{{"type", "result"},
                   {"ok", false},
                   {"exit", static_cast<int>(exit)},
                   {"message", error.message},
                   {"remedy", error.remedy}}) +
         "\n";
}

Result<WhyQuery> parse_why(std::string_view text) {
  WhyQuery query;
  if (text.find(':') == std::string_view::npos) {
    const auto pid = parse_number(text, 1, INT32_MAX);
    if (!pid)
      return refused(in_quotes(text) + " is neither a pid nor an address",
                     "write PID, ADDR:PORT, [ADDR]:PORT or :PORT");
    query.tgid = static_cast<uint32_t>(*pid);
    return query;
  }
  query.addr = std::string(text);
  const bool right =
      text.front() == ':' ? parse_number(text.substr(1), 1, 65535).has_value() : parse_listen_address(text).has_value();
  if (!right) return refused(in_quotes(text) + " is not an address", "write ADDR:PORT, [ADDR]:PORT or :PORT");
  return query;
}

}  // namespace shunt
