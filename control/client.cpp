#include <sys/socket.h>
#include <sys/un.h>

#include <control/client.hpp>

namespace shunt {

Result<ControlClient> ControlClient::connect(const std::string& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof(address.sun_path)) return unexpected(ENAMETOOLONG, socket_path);
  socket_path.copy(address.sun_path, socket_path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return unexpected(errno, "socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return unexpected(errno, "cannot reach shuntd at " + socket_path, "start it: systemctl start shuntd");
  }
  return ControlClient(std::move(fd));
}

Result<std::string> ControlClient::read_line() {
  for (;;) {
    const size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    if (buffer_.size() > kReplyLineBytesMax) return unexpected(EMSGSIZE, "shuntd's reply");
    char bytes[16384];
    const ssize_t count = recv(fd_.get(), bytes, sizeof(bytes), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return unexpected(errno, "reading from shuntd");
    if (count == 0)
      return unexpected(Error{EPIPE, "shuntd closed the connection", "look into its log: journalctl -u shuntd"});
    buffer_.append(bytes, static_cast<size_t>(count));
  }
}

Reply ControlClient::request(const Request& request, const std::function<bool(const Json&)>& on_line) {
  const std::string line = dump(request_document(request)) + "\n";
  // A refused client (too many) is closed without being read; what shuntd said before is then still there to read.
  if (send(fd_.get(), line.data(), line.size(), MSG_NOSIGNAL) < 0 && errno != EPIPE) {
    return {ExitCode::error, {}, errno_error(errno, "writing to shuntd")};
  }
  for (;;) {
    const auto text = read_line();
    if (!text) return {ExitCode::error, {}, text.error()};
    const Json reply = Json::parse(*text, nullptr, false);
    if (!reply.is_object())
      return {ExitCode::error,
              {},
              Error{EPROTO, "shuntd's reply is not understood", "are shunt and shuntd of one version?"}};
    if (reply.value("type", "") != "result") {
      if (on_line && !on_line(reply)) return {};
      continue;
    }
    if (reply.value("ok", false)) return {ExitCode::ok, reply.value("data", Json::object()), {}};
    return {static_cast<ExitCode>(reply.value("exit", 1)),
            {},
            Error{EIO, reply.value("message", ""), reply.value("remedy", "")}};
  }
}

}  // namespace shunt
