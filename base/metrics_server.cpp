#include <base/metrics_server.hpp>

namespace shunt {
namespace {

std::string response(const char* status, const char* type, const std::string& body, bool with_body) {
  std::string text = std::string("HTTP/1.1 ") + status + "\r\nContent-Type: " + type +
                     "\r\nContent-Length: " + std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n";
  return with_body ? text + body : text;
}

constexpr const char* kPlain = "text/plain; charset=utf-8";

}  // namespace

void MetricsServer::on_input(Connection& connection) {
  const std::string& in = connection.in;
  if (in.find("\r\n\r\n") == std::string::npos && in.find("\n\n") == std::string::npos) {
    if (in.size() >= 8192) {
      connection.send(response("431 Request Header Fields Too Large", kPlain, "", true));
      connection.close_when_sent();
    }
    return;
  }
  const std::string line = in.substr(0, in.find_first_of("\r\n"));
  const size_t method_end = line.find(' ');
  const size_t target_end = method_end == std::string::npos ? std::string::npos : line.find(' ', method_end + 1);
  const std::string method = line.substr(0, method_end);
  const std::string target =
      target_end == std::string::npos ? "" : line.substr(method_end + 1, target_end - method_end - 1);
  const std::string path = target.substr(0, target.find('?'));
  const bool with_body = method != "HEAD";
  if (target_end == std::string::npos || line.compare(target_end, 6, " HTTP/") != 0) {
    connection.send(response("400 Bad Request", kPlain, "not an HTTP request\n", true));
  } else if (method != "GET" && method != "HEAD") {
    connection.send(response("405 Method Not Allowed", kPlain, "only GET\n", with_body));
  } else if (path != "/metrics") {
    connection.send(response("404 Not Found", kPlain, "the metrics are at /metrics\n", with_body));
  } else if (const auto page = page_()) {
    connection.send(response("200 OK", "text/plain; version=0.0.4; charset=utf-8", *page, with_body));
  } else {
    connection.send(response("500 Internal Server Error", kPlain, page.error().message + "\n", with_body));
  }
  connection.in.clear();
  connection.paused = true;
  connection.close_when_sent();
}

}  // namespace shunt
