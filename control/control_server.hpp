// The control socket: reads requests, asks the daemon, streams rows and events.
#pragma once

#include <base/stream_server.hpp>
#include <chrono>
#include <control/protocol.hpp>
#include <memory>
#include <string>
#include <vector>

namespace shunt {

// What the daemon does for its clients.
class ControlBackend {
 public:
  virtual ~ControlBackend() = default;
  virtual Result<Json> status() = 0;
  virtual Result<SharedRows> rows() = 0;
  virtual Result<std::vector<WhyRow>> why(const WhyQuery& query) = 0;
  virtual Result<Json> check() = 0;
  virtual Result<Json> version() = 0;
  virtual Result<Json> turn_on() = 0;
  // Starts; ControlServer::off_progress() and off_finished() are called later.
  virtual Result<void> turn_off(std::chrono::milliseconds deadline) = 0;
  // Starts, or will when the one that runs has ended; ControlServer::reload_finished() is called later, with the number
  // that this returns.
  virtual Result<uint64_t> reload() = 0;
  virtual Result<Json> policy() = 0;
  virtual Result<Json> trace(const TraceQuery& query) = 0;
  // Adds to an event's document what only the daemon knows.
  virtual void describe(const sh_event& event, Json& document) = 0;
  virtual void monitors_changed(size_t count) = 0;
};

class ControlServer : private StreamHandler {
 public:
  ControlServer(EventLoop& loop, ControlBackend& backend);

  Result<void> listen(UniqueFd socket) { return server_.listen(std::move(socket)); }
  Result<void> adopt(UniqueFd client) { return server_.adopt(std::move(client)); }
  void sweep() { server_.sweep(); }

  void publish(const sh_event& event);
  void publish_kernel_losses(uint64_t count);
  void off_progress(uint32_t remaining);
  void off_finished(const Result<Json>& report);
  void reload_finished(uint64_t number, const Result<Json>& report);

  size_t monitors() const { return monitors_; }
  uint64_t events_lost() const { return events_lost_; }

 private:
  struct ControlSession;

  void on_connect(Connection& connection) override;
  void on_input(Connection& connection) override;
  void on_room(Connection& connection) override;
  void on_close(Connection& connection) override;

  void serve_line(Connection& connection, std::string_view line);
  void serve(Connection& connection, const Request& request);
  void serve_why(Connection& connection, const Request& request);
  void start_list(Connection& connection, const Request& request);
  void start_monitor(Connection& connection, const Request& request);
  void start_off(Connection& connection, const Request& request);
  void start_reload(Connection& connection, const Request& request);
  void stream_rows(Connection& connection);
  void reply(Connection& connection, const Result<Json>& result, Command command);
  void finish(Connection& connection);
  bool send_losses(Connection& connection);

  ControlBackend& backend_;
  size_t monitors_ = 0;
  uint64_t events_lost_ = 0;
  StreamServer server_;
};

}  // namespace shunt
