// The CLI's end of the control socket.
#pragma once

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <control/protocol.hpp>
#include <functional>
#include <string>

namespace shunt {

struct Reply {
  ExitCode exit = ExitCode::ok;
  Json data;    // if ok
  Error error;  // if not
};

class ControlClient {
 public:
  // not_running() says of the error whether no daemon is there.
  static Result<ControlClient> connect(const std::string& socket_path);
  static bool not_running(const Error& error) { return error.code == ENOENT || error.code == ECONNREFUSED; }

  // Hands each line that is not the result to `on_line`, until it returns false (then the reply is ok and empty) or the
  // result is there.
  Reply request(const Request& request, const std::function<bool(const Json&)>& on_line = {});

 private:
  explicit ControlClient(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<std::string> read_line();

  UniqueFd fd_;
  std::string buffer_;
};

}  // namespace shunt
