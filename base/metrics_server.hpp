// Serves GET /metrics. A few lines of HTTP on a loop that is there, because the exposer of prometheus-cpp brings
// threads of its own, which would have to share what is measured, and metrics of its own, whose names are not ours.
#pragma once

#include <base/stream_server.hpp>
#include <functional>
#include <string>

namespace shunt {

class MetricsServer : private StreamHandler {
 public:
  using Page = std::function<Result<std::string>()>;

  MetricsServer(EventLoop& loop, Page page)
      : page_(std::move(page)),
        server_(loop, *this, StreamLimits{.input_bytes = 8192, .clients = 16, .clients_of_others = 16}) {}

  Result<void> listen(UniqueFd socket) { return server_.listen(std::move(socket)); }
  void close_listener() { server_.close_listener(); }
  Result<void> adopt(UniqueFd client) { return server_.adopt(std::move(client)); }
  void sweep() { server_.sweep(); }

 private:
  void on_connect(Connection&) override {}
  void on_input(Connection& connection) override;

  Page page_;
  StreamServer server_;
};

}  // namespace shunt
