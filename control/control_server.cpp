#include <control/control_server.hpp>

namespace shunt {
namespace {

constexpr size_t kWhyRowsMax = 1000;

ExitCode exit_code_of(const Error& error, Command command) {
  if (error.code == EPERM || error.code == EACCES) return ExitCode::permission;
  if ((command == Command::reload || command == Command::trace) && error.code == EINVAL) return ExitCode::usage;
  return ExitCode::error;
}

std::string lost_line(uint64_t count, const char* where) {
  return dump(Json{{"type", "lost"}, {"count", count}, {"where", where}}) + "\n";
}

}  // namespace

struct ControlServer::ControlSession : Session {
  enum class Activity { none, listing, monitoring, waiting_for_off, waiting_for_reload };
  Activity activity = Activity::none;
  Filter filter;
  SharedRows rows;
  size_t next_row = 0;
  size_t rows_left = 0;
  uint64_t rows_matching = 0;
  uint64_t lost = 0;
  uint64_t reload = 0;  // waited for
};

ControlServer::ControlServer(EventLoop& loop, ControlBackend& backend)
    : backend_(backend), server_(loop, *this, StreamLimits{.input_bytes = kRequestBytesMax}) {}

void ControlServer::on_connect(Connection& connection) { connection.session = std::make_unique<ControlSession>(); }

void ControlServer::on_input(Connection& connection) {
  auto& session = static_cast<ControlSession&>(*connection.session);
  while (!connection.paused && connection.has_room()) {
    if (session.activity == ControlSession::Activity::monitoring) {
      connection.in.clear();  // a monitor only ends; see start_monitor()
      return;
    }
    const size_t end = connection.in.find('\n');
    if (end == std::string::npos) break;
    const std::string line = connection.in.substr(0, end);
    connection.in.erase(0, end + 1);
    serve_line(connection, line);
  }
  if (!connection.paused && connection.in.size() >= kRequestBytesMax) {
    connection.send(failure_line(ExitCode::usage, Error{EMSGSIZE, "the request is too long", {}}));
    connection.close_when_sent();
    connection.in.clear();
  }
}

void ControlServer::serve_line(Connection& connection, std::string_view line) {
  const auto request = parse_request(line);
  if (!request) {
    connection.send(failure_line(ExitCode::usage, request.error()));
    return;
  }
  if (needs_root(request->command) && connection.uid != 0) {
    const std::string message = std::string("only root may ask for ") + command_name(request->command);
    connection.send(failure_line(ExitCode::permission, Error{EPERM, message, "use sudo"}));
    return;
  }
  serve(connection, *request);
}

void ControlServer::serve(Connection& connection, const Request& request) {
  switch (request.command) {
    case Command::status:
      return reply(connection, backend_.status(), request.command);
    case Command::check:
      return reply(connection, backend_.check(), request.command);
    case Command::version:
      return reply(connection, backend_.version(), request.command);
    case Command::on:
      return reply(connection, backend_.turn_on(), request.command);
    case Command::reload:
      return start_reload(connection, request);
    case Command::policy:
      return reply(connection, backend_.policy(), request.command);
    case Command::trace:
      return reply(connection, backend_.trace(request.trace), request.command);
    case Command::why:
      return serve_why(connection, request);
    case Command::list:
      return start_list(connection, request);
    case Command::monitor:
      return start_monitor(connection, request);
    case Command::off:
      return start_off(connection, request);
  }
}

void ControlServer::reply(Connection& connection, const Result<Json>& result, Command command) {
  connection.send(result ? result_line(*result) : failure_line(exit_code_of(result.error(), command), result.error()));
}

void ControlServer::serve_why(Connection& connection, const Request& request) {
  const auto rows = backend_.why(request.why);
  if (!rows) return reply(connection, unexpected(rows.error()), request.command);
  Json documents = Json::array();
  for (size_t i = 0; i < rows->size() && i < kWhyRowsMax; i++) documents.push_back(why_document((*rows)[i]));
  reply(connection, Json{{"connections", documents}, {"total", rows->size()}}, request.command);
}

void ControlServer::start_list(Connection& connection, const Request& request) {
  auto rows = backend_.rows();
  if (!rows) return reply(connection, unexpected(rows.error()), request.command);
  auto& session = static_cast<ControlSession&>(*connection.session);
  session.activity = ControlSession::Activity::listing;
  session.filter = request.filter;
  session.rows = std::move(*rows);
  session.next_row = 0;
  session.rows_matching = 0;
  session.rows_left = request.limit != 0 ? request.limit : SIZE_MAX;
  connection.paused = true;
  stream_rows(connection);
}

void ControlServer::stream_rows(Connection& connection) {
  auto& session = static_cast<ControlSession&>(*connection.session);
  while (session.next_row < session.rows->size() && connection.has_room()) {
    const Row& row = (*session.rows)[session.next_row++];
    if (!session.filter.matches(row)) continue;
    session.rows_matching++;
    if (session.rows_left == 0) continue;
    session.rows_left--;
    Json document{{"type", "row"}};
    document.update(row_document(row));
    connection.send(dump(document) + "\n");
  }
  if (session.next_row < session.rows->size()) return;
  connection.send(result_line(Json{{"total", session.rows_matching}}));
  finish(connection);
}

void ControlServer::start_monitor(Connection& connection, const Request& request) {
  auto& session = static_cast<ControlSession&>(*connection.session);
  session.activity = ControlSession::Activity::monitoring;
  session.filter = request.filter;
  session.lost = 0;
  // Reading goes on, so that the end of the client is noticed; what it says meanwhile is not served.
  connection.patient = true;
  backend_.monitors_changed(++monitors_);
}

void ControlServer::start_off(Connection& connection, const Request& request) {
  auto started = backend_.turn_off(std::chrono::milliseconds(request.timeout_ms));
  if (!started) return reply(connection, unexpected(started.error()), request.command);
  auto& session = static_cast<ControlSession&>(*connection.session);
  session.activity = ControlSession::Activity::waiting_for_off;
  connection.paused = true;
  connection.patient = true;
}

void ControlServer::start_reload(Connection& connection, const Request& request) {
  const auto number = backend_.reload();
  if (!number) return reply(connection, unexpected(number.error()), request.command);
  auto& session = static_cast<ControlSession&>(*connection.session);
  session.activity = ControlSession::Activity::waiting_for_reload;
  session.reload = *number;
  connection.paused = true;
  connection.patient = true;
}

void ControlServer::finish(Connection& connection) {
  auto& session = static_cast<ControlSession&>(*connection.session);
  session = ControlSession{};
  connection.paused = false;
  connection.patient = false;
}

void ControlServer::on_room(Connection& connection) {
  auto& session = static_cast<ControlSession&>(*connection.session);
  if (session.activity == ControlSession::Activity::listing) stream_rows(connection);
  if (session.activity == ControlSession::Activity::monitoring) send_losses(connection);
  // Requests that came while the last one was served.
  if (!connection.paused && !connection.in.empty()) on_input(connection);
}

void ControlServer::on_close(Connection& connection) {
  const auto& session = static_cast<const ControlSession&>(*connection.session);
  if (session.activity == ControlSession::Activity::monitoring) backend_.monitors_changed(--monitors_);
}

bool ControlServer::send_losses(Connection& connection) {
  auto& session = static_cast<ControlSession&>(*connection.session);
  if (!connection.has_room()) return false;
  if (session.lost > 0) connection.send(lost_line(std::exchange(session.lost, 0), "client"));
  return true;
}

void ControlServer::publish(const sh_event& event) {
  if (monitors_ == 0) return;
  std::string line;
  server_.for_each([&](Connection& connection) {
    auto& session = static_cast<ControlSession&>(*connection.session);
    if (session.activity != ControlSession::Activity::monitoring || !session.filter.matches(event)) return;
    if (!send_losses(connection)) {
      session.lost++;
      events_lost_++;
      return;
    }
    if (line.empty()) {
      Json document{{"type", "event"}};
      document.update(event_document(event));
      backend_.describe(event, document);
      line = dump(document) + "\n";
    }
    connection.send(line);
    server_.flush(connection);
  });
}

void ControlServer::publish_kernel_losses(uint64_t count) {
  server_.for_each([&](Connection& connection) {
    const auto& session = static_cast<const ControlSession&>(*connection.session);
    if (session.activity != ControlSession::Activity::monitoring || !connection.has_room()) return;
    connection.send(lost_line(count, "kernel"));
    server_.flush(connection);
  });
}

void ControlServer::off_progress(uint32_t remaining) {
  const std::string line = dump(Json{{"type", "progress"}, {"remaining", remaining}}) + "\n";
  server_.for_each([&](Connection& connection) {
    const auto& session = static_cast<const ControlSession&>(*connection.session);
    if (session.activity != ControlSession::Activity::waiting_for_off || !connection.has_room()) return;
    connection.send(line);
    server_.flush(connection);
  });
}

void ControlServer::off_finished(const Result<Json>& report) {
  server_.for_each([&](Connection& connection) {
    const auto& session = static_cast<const ControlSession&>(*connection.session);
    if (session.activity != ControlSession::Activity::waiting_for_off) return;
    finish(connection);
    reply(connection, report, Command::off);
    server_.flush(connection);
  });
}

void ControlServer::reload_finished(uint64_t number, const Result<Json>& report) {
  server_.for_each([&](Connection& connection) {
    const auto& session = static_cast<const ControlSession&>(*connection.session);
    if (session.activity != ControlSession::Activity::waiting_for_reload || session.reload != number) return;
    finish(connection);
    reply(connection, report, Command::reload);
    server_.flush(connection);
  });
}

}  // namespace shunt
