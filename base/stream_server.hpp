// Clients of a stream socket, served by the loop: buffers are bounded in both directions, so that no client, however
// slow or talkative, holds up the daemon or grows its memory.
#pragma once

#include <sys/types.h>

#include <base/event_loop.hpp>
#include <base/unique_fd.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace shunt {

// What a handler keeps for one connection.
struct Session {
  virtual ~Session() = default;
};

class Connection {
 public:
  static constexpr size_t kOutBytesMax = 256 * 1024;  // a handler that streams stops here and goes on in on_room()

  bool has_room() const { return out_.size() < kOutBytesMax; }
  void send(std::string_view bytes) { out_.append(bytes); }
  void close_when_sent() { closing_ = true; }

  std::string in;        // what has come and is not consumed
  bool paused = false;   // do not read on: the handler is busy with what it has
  bool patient = false;  // may stay without saying anything (it follows events, or waits for a long command)
  uid_t uid = 0;         // of a Unix socket's peer
  std::unique_ptr<Session> session;

 private:
  friend class StreamServer;
  UniqueFd fd_;
  std::string out_;
  bool closing_ = false;
  bool peer_done_ = false;
  std::chrono::steady_clock::time_point progress_;
};

class StreamHandler {
 public:
  virtual ~StreamHandler() = default;
  virtual void on_connect(Connection& connection) = 0;
  virtual void on_input(Connection& connection) = 0;                  // more in `in`
  virtual void on_room(Connection& connection) { (void)connection; }  // all was sent
  virtual void on_close(Connection& connection) { (void)connection; }
};

struct StreamLimits {
  size_t input_bytes = 4096;
  size_t clients = 64;
  size_t clients_of_others = 48;     // than root, together: root always gets in
  size_t clients_of_one_uid = 16;    // that is not root
  std::chrono::seconds idle{60};     // without a word
  std::chrono::seconds stalled{10};  // with output that the peer does not take
};

class StreamServer {
 public:
  StreamServer(EventLoop& loop, StreamHandler& handler, StreamLimits limits)
      : loop_(loop), handler_(handler), limits_(limits) {}
  ~StreamServer();
  StreamServer(const StreamServer&) = delete;
  StreamServer& operator=(const StreamServer&) = delete;

  Result<void> listen(UniqueFd socket);  // a bound, listening, non-blocking socket
  void close_listener();
  Result<void> adopt(UniqueFd client);  // a connected socket

  void flush(Connection& connection);  // after send() from outside the handler's callbacks; may close
  void sweep();                        // closes the idle and the stalled; once a second
  template <typename Visit>
  void for_each(Visit visit) {
    for (auto it = connections_.begin(); it != connections_.end();) {
      Connection& connection = *(it++)->second;  // `visit` may close it
      visit(connection);
    }
  }

 private:
  void accept_all();
  bool admitted(uid_t uid) const;
  void serve(int fd, uint32_t events);
  bool receive(Connection& connection);  // false: broken
  bool transmit(Connection& connection);
  void settle(Connection& connection);  // sends, resumes, closes or waits, as it stands
  void close(Connection& connection);

  EventLoop& loop_;
  StreamHandler& handler_;
  StreamLimits limits_;
  UniqueFd listener_;
  std::map<int, std::unique_ptr<Connection>> connections_;
};

Result<UniqueFd> listen_unix(const std::string& path, mode_t mode);
Result<UniqueFd> listen_tcp(const std::string& address);  // "127.0.0.1:9615"

}  // namespace shunt
