// The control socket and the metrics endpoint, spoken to in any bytes and any pieces. The first byte chooses the
// server; 0xfe between pieces is an event, 0xff a turn of the loop. Nothing may crash or stay, and no reply may be
// anything but JSON lines.
#include <sys/socket.h>

#include <base/metrics_server.hpp>
#include <control/control_server.hpp>
#include <cstdlib>

namespace {

using namespace shunt;

class FuzzedBackend : public ControlBackend {
 public:
  Result<Json> status() override { return Json{{"mode", "on"}}; }
  Result<SharedRows> rows() override { return std::make_shared<const std::vector<Row>>(3); }
  Result<std::vector<WhyRow>> why(const WhyQuery& query) override {
    if ((query.tgid == 0) == query.addr.empty()) abort();
    return std::vector<WhyRow>(1);
  }
  Result<Json> check() override { return unexpected(Error{EIO, "no", "none"}); }
  Result<Json> version() override { return Json{{"version", "0"}}; }
  Result<Json> turn_on() override { return Json::object(); }
  Result<void> turn_off(std::chrono::milliseconds) override { return {}; }
  Result<uint64_t> reload() override { return unexpected(Error{EBUSY, "busy", ""}); }
  Result<Json> trace(const TraceQuery&) override { return Json::object(); }
  Result<Json> policy() override { return Json::object(); }
  void describe(const sh_event& event, Json& document) override { document["verdict"] = event.l7_reason; }
  void monitors_changed(size_t count) override { monitors = count; }
  size_t monitors = 0;
};

// Takes what has come, and checks the whole lines.
void take(int fd, std::string& heard, bool json) {
  char bytes[16384];
  for (ssize_t count = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT); count > 0;
       count = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) {
    heard.append(bytes, static_cast<size_t>(count));
  }
  if (!json) return;
  for (size_t end = heard.find('\n'); end != std::string::npos; end = heard.find('\n')) {
    if (!Json::accept(heard.substr(0, end))) abort();
    heard.erase(0, end + 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  auto loop = std::move(*EventLoop::create());
  FuzzedBackend backend;
  {
    ControlServer control(*loop, backend);
    MetricsServer metrics(*loop, []() -> Result<std::string> { return std::string("shunt_x 1\n"); });
    const bool json = data[0] % 2 == 0;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) abort();
    const UniqueFd client(fds[1]);
    UniqueFd server(fds[0]);
    if (!(json ? control.adopt(std::move(server)) : metrics.adopt(std::move(server)))) abort();
    std::string heard;
    std::string piece;
    for (size_t i = 1; i <= size; i++) {
      if (i < size && data[i] < 0xfe) {
        piece += static_cast<char>(data[i]);
        continue;
      }
      if (send(client.get(), piece.data(), piece.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        break;  // the server has closed
      piece.clear();
      if (i < size && data[i] == 0xfe) control.publish(sh_event{});
      if (!loop->run_once(0)) abort();
      take(client.get(), heard, json);
    }
    for (int i = 0; i < 4; i++) {
      if (!loop->run_once(0)) abort();
      take(client.get(), heard, json);
    }
    control.off_progress(1);
    control.off_finished(Json::object());
  }
  if (backend.monitors != 0) abort();
  return 0;
}
