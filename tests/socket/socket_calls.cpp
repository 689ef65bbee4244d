#include "socket/socket_calls.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <linux/errqueue.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "support/sandbox.hpp"

namespace shunt::test {

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr auto kSettle = milliseconds(60);       // for what must not happen, and for acknowledgements
constexpr auto kReadLimit = milliseconds(1000);  // a call that would block for good

std::string outcome(ssize_t result) {
  return result < 0 ? std::string(strerrorname_np(errno)) : std::to_string(result);
}

std::string received(int fd, size_t bytes, int flags = 0) {
  std::string buffer(bytes, '?');
  const ssize_t n = recv(fd, buffer.data(), bytes, flags);
  return n < 0 ? outcome(n) : fmt::format("\"{}\"", buffer.substr(0, static_cast<size_t>(n)));
}

void settle() { std::this_thread::sleep_for(kSettle); }

void wait_for_bytes(int fd) { wait_readable(fd, milliseconds(2000)); }

// A blocking receive that is already waiting when `then` happens.
std::string received_while(int fd, size_t bytes, int flags, const std::function<void()>& then) {
  set_receive_timeout(fd, kReadLimit);
  std::string got;
  std::thread reader([&] { got = received(fd, bytes, flags); });
  settle();
  then();
  reader.join();
  return got;
}

std::string poll_events(int fd, short wanted) {
  pollfd waiting{fd, wanted, 0};
  poll(&waiting, 1, static_cast<int>(kSettle.count()));
  std::string text;
  const std::pair<short, const char*> names[] = {{POLLIN, "IN"},   {POLLOUT, "OUT"}, {POLLRDHUP, "RDHUP"},
                                                 {POLLHUP, "HUP"}, {POLLERR, "ERR"}, {POLLPRI, "PRI"}};
  for (const auto& [bit, name] : names) {
    if (waiting.revents & bit) text += std::string(text.empty() ? "" : "|") + name;
  }
  return text.empty() ? "none" : text;
}

int socket_option(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof(value);
  getsockopt(fd, level, name, &value, &length);
  return value;
}

void reset_on_close(UniqueFd& fd) {
  const linger abort_on_close{1, 0};
  require(setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &abort_on_close, sizeof(abort_on_close)) == 0, "SO_LINGER");
  fd.reset();
}

struct Pipe {
  UniqueFd out, in;
  Pipe() {
    int fds[2];
    require(pipe2(fds, O_CLOEXEC) == 0, "pipe");
    out.reset(fds[0]);
    in.reset(fds[1]);
  }
};

// ---- reading ----

std::string fionread(Connection& c) {
  send_all(c.client.get(), std::string(100, 'x'));
  wait_for_bytes(c.server.get());
  const int before = readable_bytes(c.server.get());
  receive_exactly(c.server.get(), 30);
  const int after = readable_bytes(c.server.get());
  receive_exactly(c.server.get(), 70);
  return fmt::format("{} {} {}", before, after, readable_bytes(c.server.get()));
}

std::string peek(Connection& c) {
  send_all(c.client.get(), "abcdef");
  wait_for_bytes(c.server.get());
  const std::string first = received(c.server.get(), 3, MSG_PEEK), second = received(c.server.get(), 10, MSG_PEEK);
  return first + second + received(c.server.get(), 10);
}

std::string peek_off(Connection& c) {
  const int offset = 0;
  if (setsockopt(c.server.get(), SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) != 0) return outcome(-1);
  send_all(c.client.get(), "abcdef");
  wait_for_bytes(c.server.get());
  const std::string first = received(c.server.get(), 2, MSG_PEEK), second = received(c.server.get(), 2, MSG_PEEK);
  return first + second + received(c.server.get(), 10);
}

std::string receive_timeout(Connection& c) {
  set_receive_timeout(c.server.get(), milliseconds(100));
  const auto begin = Clock::now();
  const std::string empty = received(c.server.get(), 10);
  const bool waited = Clock::now() - begin >= milliseconds(90);
  send_all(c.client.get(), "late");
  return fmt::format("{} {} {}", empty, waited, received(c.server.get(), 10));
}

std::string receive_empty(Connection& c) { return received(c.server.get(), 10, MSG_DONTWAIT); }

std::string receive_nothing(Connection& c) {
  send_all(c.client.get(), "x");
  wait_for_bytes(c.server.get());
  char byte;
  const ssize_t none = recv(c.server.get(), &byte, 0, 0);
  return outcome(none) + received(c.server.get(), 5);
}

std::string blocked_receive(Connection& c) {
  return received_while(c.server.get(), 100, 0, [&] { send_all(c.client.get(), "woken"); });
}

std::string blocked_receive_own_shutdown(Connection& c) {
  return received_while(c.server.get(), 100, 0, [&] {
    shutdown(c.server.get(), SHUT_WR);
    settle();
    send_all(c.client.get(), "bytes");
  });
}

std::string blocked_receive_reset(Connection& c) {
  return received_while(c.server.get(), 100, 0, [&] { reset_on_close(c.client); });
}

std::string blocked_receive_fin(Connection& c) {
  return received_while(c.server.get(), 100, 0, [&] { shutdown(c.client.get(), SHUT_WR); });
}

std::string waitall(Connection& c) {
  return received_while(c.server.get(), 10, MSG_WAITALL, [&] {
    send_all(c.client.get(), "first");
    settle();
    send_all(c.client.get(), "later");
  });
}

std::string rcvlowat(Connection& c) {
  set_option(c.server.get(), SOL_SOCKET, SO_RCVLOWAT, 10);
  send_all(c.client.get(), "first");
  const std::string early = poll_events(c.server.get(), POLLIN);
  send_all(c.client.get(), "later");
  wait_for_bytes(c.server.get());
  return early + received(c.server.get(), 20);
}

std::string trunc_with_buffer(Connection& c) {
  send_all(c.client.get(), "abcdef");
  wait_for_bytes(c.server.get());
  char buffer[4] = {};
  const ssize_t n = recv(c.server.get(), buffer, 4, MSG_TRUNC);
  return outcome(n) + received(c.server.get(), 10);
}

std::string trunc_without_buffer(Connection& c) {
  send_all(c.client.get(), "abcdef");
  wait_for_bytes(c.server.get());
  const ssize_t n = recv(c.server.get(), nullptr, 4, MSG_TRUNC);
  return outcome(n) + received(c.server.get(), 10);
}

std::string scatter(Connection& c) {
  send_all(c.client.get(), "abcdef");
  wait_for_bytes(c.server.get());
  char a[2], b[3];
  iovec parts[] = {{a, sizeof(a)}, {b, sizeof(b)}};
  const ssize_t n = readv(c.server.get(), parts, 2);
  return fmt::format("{} {} {} {}", n, std::string(a, 2), std::string(b, 3), received(c.server.get(), 5));
}

std::string many_messages(Connection& c) {
  send_all(c.client.get(), "abcdef");
  wait_for_bytes(c.server.get());
  char a[4] = {}, b[4] = {};
  iovec first{a, 4}, second{b, 4};
  mmsghdr messages[2] = {};
  messages[0].msg_hdr.msg_iov = &first;
  messages[1].msg_hdr.msg_iov = &second;
  messages[0].msg_hdr.msg_iovlen = messages[1].msg_hdr.msg_iovlen = 1;
  const int n = recvmmsg(c.server.get(), messages, 2, MSG_DONTWAIT, nullptr);
  return fmt::format("{} {} {} {}{}", n, messages[0].msg_len, messages[1].msg_len, std::string(a, 4),
                     std::string(b, 2));
}

std::string read_write(Connection& c) {
  iovec parts[] = {{const_cast<char*>("ab"), 2}, {const_cast<char*>("cd"), 2}};
  const ssize_t wrote = writev(c.client.get(), parts, 2) + write(c.client.get(), "ef", 2);
  std::string got = receive_exactly(c.server.get(), 6);
  char more;
  set_nonblocking(c.server.get(), true);
  const ssize_t n = read(c.server.get(), &more, 1);
  return fmt::format("{} {} {}", wrote, got, outcome(n));
}

// ---- other ways to move bytes ----

std::string sendfile_to_socket(Connection& c) {
  TempDir dir;
  const std::string text = pattern(3, 50000);
  write_text(dir / "file", text);
  const UniqueFd file(open((dir / "file").c_str(), O_RDONLY | O_CLOEXEC));
  const ssize_t n = sendfile(c.client.get(), file.get(), nullptr, text.size());
  return fmt::format("{} {}", outcome(n), receive_exactly(c.server.get(), text.size()) == text);
}

std::string splice_to_socket(Connection& c) {
  Pipe pipe;
  require(write(pipe.in.get(), "spliced", 7) == 7, "write to a pipe");
  const ssize_t n = splice(pipe.out.get(), nullptr, c.client.get(), nullptr, 7, 0);
  return outcome(n) + receive_exactly(c.server.get(), 7);
}

std::string splice_from_socket(Connection& c) {
  Pipe pipe;
  send_all(c.client.get(), "spliced");
  wait_for_bytes(c.server.get());
  set_nonblocking(c.server.get(), true);
  const ssize_t n = splice(c.server.get(), nullptr, pipe.in.get(), nullptr, 100, SPLICE_F_NONBLOCK);
  return outcome(n) + " " + poll_events(c.server.get(), POLLIN);
}

std::string io_uring_both(Connection& c) {
  io_uring ring;
  if (io_uring_queue_init(4, &ring, 0) != 0) return "io_uring unavailable";
  char buffer[16] = {};
  io_uring_sqe* sqe = io_uring_get_sqe(&ring);
  io_uring_prep_recv(sqe, c.server.get(), buffer, sizeof(buffer), 0);
  sqe->user_data = 1;
  io_uring_submit(&ring);
  settle();
  sqe = io_uring_get_sqe(&ring);
  io_uring_prep_send(sqe, c.client.get(), "uring", 5, 0);
  sqe->user_data = 2;
  io_uring_submit(&ring);
  int results[3] = {};
  __kernel_timespec limit{2, 0};
  for (int i = 0; i < 2; ++i) {
    io_uring_cqe* cqe = nullptr;
    if (io_uring_wait_cqe_timeout(&ring, &cqe, &limit) != 0) break;
    results[cqe->user_data] = cqe->res;
    io_uring_cqe_seen(&ring, cqe);
  }
  io_uring_queue_exit(&ring);
  return fmt::format("sent {} received {} {}", results[2], results[1], std::string(buffer, 5));
}

std::string send_zerocopy(Connection& c) {
  const int on = 1;
  const bool set = setsockopt(c.client.get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) == 0;
  const std::string text = pattern(4, 20000);
  const ssize_t n = send(c.client.get(), text.data(), text.size(), MSG_ZEROCOPY);
  const bool whole = receive_exactly(c.server.get(), text.size()) == text;
  char control[200];
  msghdr message{};
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const bool completed =
      eventually([&] { return recvmsg(c.client.get(), &message, MSG_ERRQUEUE) == 0; }, milliseconds(300));
  return fmt::format("set {} {} whole {} completed {}", set, n, whole, completed);
}

// A program that was refused SO_ZEROCOPY sends by copying.
std::string send_after_zerocopy(Connection& c) {
  const int on = 1;
  const bool set = setsockopt(c.client.get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) == 0;
  const std::string text = pattern(5, 20000);
  send(c.client.get(), text.data(), text.size(), set ? MSG_ZEROCOPY : 0);
  return receive_exactly(c.server.get(), text.size()) == text ? "whole" : "not whole";
}

// ---- waiting ----

int wait_for_event(int epoll, int limit_ms) {
  epoll_event event{};
  int count;
  do {
    count = epoll_wait(epoll, &event, 1, limit_ms);
  } while (count < 0 && errno == EINTR);
  return count;
}

std::string edges(Connection& c) {
  const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = static_cast<uint32_t>(EPOLLIN) | static_cast<uint32_t>(EPOLLET);
  require(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, c.server.get(), &event) == 0, "epoll_ctl");
  std::string seen;
  for (int i = 0; i < 3; ++i) {
    send_all(c.client.get(), "e");
    seen += std::to_string(wait_for_event(epoll.get(), 1000));
    seen += std::to_string(wait_for_event(epoll.get(), 30));  // no second event for the same byte
  }
  return seen + received(c.server.get(), 10);
}

std::string poll_and_select(Connection& c) {
  std::string seen = poll_events(c.server.get(), POLLIN | POLLOUT | POLLPRI | POLLRDHUP);
  send_all(c.client.get(), "p");
  wait_for_bytes(c.server.get());
  seen += " " + poll_events(c.server.get(), POLLIN | POLLOUT | POLLPRI | POLLRDHUP);
  fd_set readable;
  FD_ZERO(&readable);
  FD_SET(c.server.get(), &readable);
  timeval limit{1, 0};
  seen += fmt::format(" select {}", select(c.server.get() + 1, &readable, nullptr, nullptr, &limit));
  received(c.server.get(), 10);
  c.client.reset();
  wait_for_bytes(c.server.get());
  return seen + " " + poll_events(c.server.get(), POLLIN | POLLOUT | POLLRDHUP);
}

std::string poll_after_reset(Connection& c) {
  reset_on_close(c.client);
  settle();
  const std::string events = poll_events(c.server.get(), POLLIN | POLLOUT | POLLRDHUP);
  const std::string first = received(c.server.get(), 10), second = received(c.server.get(), 10);
  return events + " " + first + " " + second;
}

std::string signal_on_bytes(Connection& c) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGIO);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const timespec none{0, 0}, second{1, 0};
  fcntl(c.server.get(), F_SETOWN, getpid());
  fcntl(c.server.get(), F_SETFL, fcntl(c.server.get(), F_GETFL) | O_ASYNC);
  while (sigtimedwait(&signals, nullptr, &none) > 0) {
  }
  send_all(c.client.get(), "s");
  const int got = sigtimedwait(&signals, nullptr, &second);
  fcntl(c.server.get(), F_SETFL, fcntl(c.server.get(), F_GETFL) & ~O_ASYNC);
  while (sigtimedwait(&signals, nullptr, &none) > 0) {
  }
  return got == SIGIO ? "SIGIO" : "no signal";
}

std::string full_and_drained(Connection& c) {
  set_nonblocking(c.client.get(), true);
  const std::string block(16384, 'f');
  size_t sent = 0;
  for (auto end = Clock::now() + milliseconds(5000); Clock::now() < end;) {
    const ssize_t n = send(c.client.get(), block.data(), block.size(), 0);
    if (n > 0) sent += static_cast<size_t>(n);
    if (n < 0 && poll_events(c.client.get(), POLLOUT) == "none") break;
  }
  const std::string full = poll_events(c.client.get(), POLLOUT);
  const std::string again = outcome(send(c.client.get(), block.data(), block.size(), 0));
  const bool whole = receive_exactly(c.server.get(), sent) == std::string(sent, 'f');
  return fmt::format("full {} {} whole {} then {}", full, again, whole, poll_events(c.client.get(), POLLOUT));
}

std::string send_timeout(Connection& c) {
  set_send_timeout(c.client.get(), milliseconds(300));
  const std::string block(65536, 't');
  for (auto end = Clock::now() + milliseconds(8000); Clock::now() < end;) {
    const ssize_t n = send(c.client.get(), block.data(), block.size(), 0);
    if (n < 0) return outcome(n);
  }
  return "never";
}

// ---- ends ----

std::string half_close(Connection& c) {
  send_all(c.client.get(), "last");
  shutdown(c.client.get(), SHUT_WR);
  const std::string got = receive_to_eof(c.server.get());
  send_all(c.server.get(), "answer");
  const ssize_t refused = send(c.client.get(), "x", 1, MSG_NOSIGNAL);
  return got + " " + outcome(refused) + " " + receive_exactly(c.client.get(), 6);
}

std::string shutdown_read(Connection& c) {
  shutdown(c.server.get(), SHUT_RD);
  const std::string before = received(c.server.get(), 10, MSG_DONTWAIT);
  const std::string sent = outcome(send(c.client.get(), "x", 1, MSG_NOSIGNAL));
  settle();
  return before + " " + sent + " " + received(c.server.get(), 10, MSG_DONTWAIT);
}

std::string close_with_queued(Connection& c) {
  const std::string text = pattern(6, 100000);
  send_all(c.client.get(), text);
  c.client.reset();
  settle();
  return receive_to_eof(c.server.get()) == text ? "whole" : "truncated";
}

std::string close_with_unread(Connection& c) {
  send_all(c.client.get(), "unread");
  wait_for_bytes(c.server.get());
  c.server.reset();
  settle();
  return received(c.client.get(), 10);
}

std::string reset(Connection& c) {
  reset_on_close(c.client);
  settle();
  const int error = socket_option(c.server.get(), SOL_SOCKET, SO_ERROR);
  return fmt::format("{} {}", error, received(c.server.get(), 10));
}

std::string reset_after_send(Connection& c) {
  send_all(c.client.get(), "gone");
  wait_for_bytes(c.server.get());
  reset_on_close(c.client);
  settle();
  const std::string first = received(c.server.get(), 10), second = received(c.server.get(), 10);
  return first + " " + second;
}

std::string send_to_closed(Connection& c) {
  c.server.reset();
  settle();
  const std::string first = outcome(send(c.client.get(), "a", 1, MSG_NOSIGNAL));
  settle();
  const std::string second = outcome(send(c.client.get(), "b", 1, MSG_NOSIGNAL));
  return first + " " + second + " " + received(c.client.get(), 10);
}

std::string linger_close(Connection& c) {
  const linger wait_on_close{1, 2};
  setsockopt(c.client.get(), SOL_SOCKET, SO_LINGER, &wait_on_close, sizeof(wait_on_close));
  send_all(c.client.get(), "lingering");
  c.client.reset();
  return receive_to_eof(c.server.get());
}

// ---- options and information ----

std::string names(Connection& c) {
  return fmt::format("{} {}", local_endpoint(c.client.get()).port() == remote_endpoint(c.server.get()).port(),
                     remote_endpoint(c.client.get()).port() == local_endpoint(c.server.get()).port());
}

std::string so_error(Connection& c) {
  return fmt::format("{} {}", socket_option(c.client.get(), SOL_SOCKET, SO_ERROR),
                     socket_option(c.server.get(), SOL_SOCKET, SO_ERROR));
}

std::string buffer_sizes(Connection& c) {
  set_option(c.server.get(), SOL_SOCKET, SO_RCVBUF, 100000);
  set_option(c.client.get(), SOL_SOCKET, SO_SNDBUF, 100000);
  const std::string text = pattern(7, 30000);
  send_all(c.client.get(), text);
  return fmt::format("{} {} {}", socket_option(c.server.get(), SOL_SOCKET, SO_RCVBUF),
                     socket_option(c.client.get(), SOL_SOCKET, SO_SNDBUF),
                     receive_exactly(c.server.get(), text.size()) == text);
}

std::string tcp_info_state(Connection& c) {
  tcp_info info{};
  socklen_t length = sizeof(info);
  getsockopt(c.client.get(), IPPROTO_TCP, TCP_INFO, &info, &length);
  return fmt::format("state {} unacked {}", info.tcpi_state, info.tcpi_unacked);
}

std::string tcp_info_bytes(Connection& c) {
  const auto counters = [](int fd) {
    tcp_info info{};
    socklen_t length = sizeof(info);
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length);
    return std::pair(info.tcpi_bytes_acked, info.tcpi_bytes_received);
  };
  const auto before = counters(c.client.get());
  const auto before_server = counters(c.server.get());
  send_all(c.client.get(), std::string(1000, 'i'));
  receive_exactly(c.server.get(), 1000);
  settle();
  return fmt::format("acked {} received {}", counters(c.client.get()).first - before.first,
                     counters(c.server.get()).second - before_server.second);
}

std::string unsent_bytes(Connection& c) {
  send_all(c.client.get(), std::string(1000, 'q'));
  receive_exactly(c.server.get(), 1000);
  settle();
  int bytes = -1;
  ioctl(c.client.get(), SIOCOUTQ, &bytes);
  return std::to_string(bytes);
}

std::string urgent(Connection& c) {
  send_all(c.client.get(), "ab");
  const ssize_t sent = send(c.client.get(), "!", 1, MSG_OOB);
  settle();
  const std::string events = poll_events(c.server.get(), POLLIN | POLLPRI);
  const std::string in_band = received(c.server.get(), 10, MSG_DONTWAIT);
  return fmt::format("{} {} {} {}", outcome(sent), events, in_band,
                     received(c.server.get(), 1, MSG_OOB | MSG_DONTWAIT));
}

std::string more(Connection& c) {
  send(c.client.get(), "ab", 2, MSG_MORE);
  const std::string early = poll_events(c.server.get(), POLLIN);
  send(c.client.get(), "cd", 2, 0);
  wait_for_bytes(c.server.get());
  return early + " " + receive_exactly(c.server.get(), 4);
}

std::string cork(Connection& c) {
  set_option(c.client.get(), IPPROTO_TCP, TCP_CORK, 1);
  send_all(c.client.get(), "ab");
  const std::string early = poll_events(c.server.get(), POLLIN);
  set_option(c.client.get(), IPPROTO_TCP, TCP_CORK, 0);
  wait_for_bytes(c.server.get());
  return early + " " + receive_exactly(c.server.get(), 2);
}

std::string ulp(Connection& c) {
  const int result = setsockopt(c.client.get(), IPPROTO_TCP, TCP_ULP, "tls", 3);
  return outcome(result);
}

std::string timestamp(Connection& c) {
  const int on = 1;
  if (setsockopt(c.server.get(), SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)) != 0) return outcome(-1);
  settle();  // the kernel begins to stamp in its own time
  send_all(c.client.get(), "t");
  wait_for_bytes(c.server.get());
  char byte, control[200];
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  recvmsg(c.server.get(), &message, 0);
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  return header && header->cmsg_type == SCM_TIMESTAMP ? "stamped" : "no stamp";
}

std::string inq(Connection& c) {
  const int on = 1;
  if (setsockopt(c.server.get(), IPPROTO_TCP, TCP_INQ, &on, sizeof(on)) != 0) return outcome(-1);
  send_all(c.client.get(), "abc");
  wait_for_bytes(c.server.get());
  char byte, control[200];
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  recvmsg(c.server.get(), &message, 0);
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (!header || header->cmsg_type != TCP_CM_INQ) return "no count";
  int left = 0;
  std::memcpy(&left, CMSG_DATA(header), sizeof(left));
  return std::to_string(left);
}

}  // namespace

std::vector<SocketCall> socket_calls() {
  return {
      {"FIONREAD", fionread},
      {"MSG_PEEK", peek},
      {"SO_PEEK_OFF", peek_off},
      {"SO_RCVTIMEO", receive_timeout},
      {"SO_SNDTIMEO", send_timeout},
      {"recv, nothing there", receive_empty},
      {"recv of 0 bytes", receive_nothing},
      {"recv, blocked", blocked_receive},
      {"recv, blocked, FIN", blocked_receive_fin},
      {"recv, blocked, RST", blocked_receive_reset},
      {"recv, blocked, own shutdown", blocked_receive_own_shutdown},
      {"MSG_WAITALL", waitall},
      {"SO_RCVLOWAT", rcvlowat},
      {"MSG_TRUNC", trunc_with_buffer},
      {"MSG_TRUNC with NULL", trunc_without_buffer},
      {"readv", scatter},
      {"recvmmsg", many_messages},
      {"read, write, writev", read_write},
      {"sendfile", sendfile_to_socket},
      {"splice pipe to socket", splice_to_socket},
      {"splice socket to pipe", splice_from_socket},
      {"io_uring", io_uring_both},
      {"MSG_ZEROCOPY", send_zerocopy},
      {"send after SO_ZEROCOPY", send_after_zerocopy},
      {"epoll, edge-triggered", edges},
      {"poll, select", poll_and_select},
      {"poll after RST", poll_after_reset},
      {"SIGIO", signal_on_bytes},
      {"POLLOUT when full", full_and_drained},
      {"shutdown(SHUT_WR)", half_close},
      {"shutdown(SHUT_RD)", shutdown_read},
      {"close with queued bytes", close_with_queued},
      {"close with unread bytes", close_with_unread},
      {"SO_LINGER 0", reset},
      {"SO_LINGER 0 after send", reset_after_send},
      {"SO_LINGER 2", linger_close},
      {"send to a closed end", send_to_closed},
      {"getsockname, getpeername", names},
      {"SO_ERROR", so_error},
      {"SO_RCVBUF, SO_SNDBUF", buffer_sizes},
      {"TCP_INFO state", tcp_info_state},
      {"TCP_INFO byte counters", tcp_info_bytes},
      {"SIOCOUTQ", unsent_bytes},
      {"MSG_OOB", urgent},
      {"MSG_MORE", more},
      {"TCP_CORK", cork},
      {"TCP_ULP", ulp},
      {"SO_TIMESTAMP", timestamp},
      {"TCP_INQ", inq},
  };
}

}  // namespace shunt::test
