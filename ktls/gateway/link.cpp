#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cassert>
#include <cerrno>
#include <cstring>
#include <ktls/gateway/link.hpp>

namespace shunt::gateway {
namespace {

// Then others have their turn; what is left, poll() tells again.
constexpr int kRoundsMax = 8;

void set_number(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof(value)); }

void set_up_mesh_socket(int fd) {
  set_number(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  // A host that is gone says nothing.
  set_number(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_number(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set_number(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set_number(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

void reset_on_close(int fd) {
  const linger now{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

// Unread bytes would turn the close into a reset, which takes the alert away from the peer.
void close_gently(UniqueFd& fd, std::span<uint8_t> scratch) {
  ::shutdown(fd.get(), SHUT_WR);
  for (int round = 0; round < kRoundsMax; round++) {
    if (::recv(fd.get(), scratch.data(), scratch.size(), MSG_DONTWAIT) <= 0) break;
  }
  fd.reset();
}

int socket_error(int fd) {
  int code = 0;
  socklen_t size = sizeof(code);
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) == 0 ? code : errno;
}

}  // namespace

// ---- the loop ----

bool Link::Watch::want(int fd, uint32_t events) {
  if (fd_ == fd && events_ == events) return true;
  EventLoop& loop = link_.home_.loop();
  if (fd_ == fd) {
    loop.modify(fd, events);
  } else {
    const bool mesh = this == &link_.mesh_watch_;
    forget();
    if (!loop.add(fd, events, [link = &link_, mesh](uint32_t seen) { link->on_event(mesh, seen); })) return false;
    fd_ = fd;
  }
  events_ = events;
  return true;
}

void Link::Watch::forget() {
  if (fd_ >= 0) link_.home_.loop().remove(fd_);
  fd_ = -1;
  events_ = 0;
}

Link::Link(LinkHome& home, UniqueFd accepted, const Endpoint& client, const RemoteService* service)
    : home_(home), client_(client), service_(service), began_(home.now()) {
  (service ? plain_fd_ : mesh_fd_) = std::move(accepted);
  if (service) service_name_ = service->name;
}

Link::~Link() = default;

void Link::on_event(bool mesh, uint32_t events) {
  switch (state_) {
    case State::dialling:
    case State::connecting: {
      const bool dialling = state_ == State::dialling;
      if (mesh != dialling) return;
      const int code = socket_error(dialling ? mesh_fd_.get() : plain_fd_.get());
      if (code != 0)
        return refuse(
            refusal(dialling ? Reason::gateway_unreachable : Reason::server_unreachable, std::strerror(code)));
      return dialling ? begin_handshake() : begin_pumping();
    }
    case State::handshake:
      return advance_handshake();
    case State::pumping:
      pump();
      return look_for_reset(mesh, events);
    case State::done:
      return;
  }
}

void Link::tick() {
  const Milliseconds age_max = home_.shared().config.max_connection_age;
  if (state_ == State::pumping && age_max.count() != 0 && home_.now() - began_ >= age_max)
    return give_up(refusal(Reason::too_old));
  if (state_ == State::pumping || state_ == State::done || home_.now() < deadline_) return;
  switch (state_) {
    case State::dialling:
      return refuse(refusal(Reason::gateway_unreachable, "no answer"));
    case State::handshake:
      return refuse(refusal(Reason::handshake_timeout));
    default:
      return refuse(refusal(Reason::server_unreachable, "no answer"));
  }
}

void Link::give_up(Refusal why) {
  if (state_ == State::pumping) return finish("failed", why);
  if (state_ != State::done) refuse(std::move(why));
}

bool Link::recheck(Recheck& recheck) {
  if (state_ == State::done || !presented_ || trusted_by_ == recheck.trust()) return false;
  trusted_by_ = recheck.trust();
  if (const auto refused = recheck.judge(*presented_)) give_up(refusal(Reason::revoked, refused->to_string()));
  return true;
}

// ---- until both connections are there ----

void Link::start() {
  set_number(from_mesh() ? mesh_fd_.get() : plain_fd_.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  if (from_mesh()) return begin_handshake();
  deadline_ = home_.now() + home_.shared().config.timeouts.connect;
  if (!open_socket(service_->gateway, mesh_fd_, mesh_watch_))
    refuse(refusal(Reason::gateway_unreachable, std::strerror(errno)));
}

// Begins to connect; the watch tells when that is over.
bool Link::open_socket(const Endpoint& endpoint, UniqueFd& fd, Watch& watch) {
  sockaddr_in6 address;
  const socklen_t length = to_sockaddr(endpoint, address);
  fd.reset(::socket(address.sin6_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return false;
  set_number(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  if (&fd == &plain_fd_ && !claim(fd.get())) {
    refuse(refusal(Reason::unclaimed, std::strerror(errno)));
    return true;
  }
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0 && errno != EINPROGRESS)
    return false;
  return watch.want(fd.get(), EPOLLOUT);
}

// The connection to the local server stands for the peer, from before it is one.
bool Link::claim(int fd) const { return peer_id_ && home_.shared().kernel.stands_for(fd, *peer_id_); }

void Link::begin_handshake() {
  Shared& shared = home_.shared();
  state_ = State::handshake;
  deadline_ = home_.now() + shared.config.timeouts.handshake;
  set_up_mesh_socket(mesh_fd_.get());
  const int fd = mesh_fd_.get();
  handshake_ = from_mesh() ? Handshake::accept(shared.security.get(), shared.config, fd, shared.to_kernel)
                           : Handshake::connect(shared.security.get(), *service_, fd, shared.to_kernel);
  if (!handshake_) return refuse(refusal(Reason::handshake_failed, openssl_error("OpenSSL").message));
  advance_handshake();
}

void Link::advance_handshake() {
  const Handshake::State state = handshake_->advance();
  service_name_ = handshake_->service_name();
  peer_ = handshake_->peer();
  switch (state) {
    case Handshake::State::wants_input:
      mesh_watch_.want(mesh_fd_.get(), EPOLLIN);
      return;
    case Handshake::State::wants_output:
      mesh_watch_.want(mesh_fd_.get(), EPOLLOUT);
      return;
    case Handshake::State::failed:
      return refuse(handshake_->refusal());
    case Handshake::State::done:
      return take_session();
  }
}

void Link::take_session() {
  const Shared& shared = home_.shared();
  const LocalService* const local = handshake_->service();
  mesh_watch_.forget();
  presented_.emplace(handshake_->ssl());
  if (const SpiffeId* id = handshake_->peer_id()) peer_id_ = *id;
  trusted_by_ = handshake_->security()->trust;
  state_ = State::connecting;
  if (from_mesh()) home_.handshake_over(*this);
  if (shared.to_kernel) {
    auto socket = hand_off(handshake_->ssl(), mesh_fd_);
    const bool may_go_on = mesh_fd_.valid() && shared.config.ktls == KtlsUse::preferred;
    if (!socket && !may_go_on) return refuse(refusal(Reason::no_ktls, socket.error().to_string()));
    if (socket) {
      mode_ = "ktls";
      mesh_ = ktls_leg(std::move(*socket));
      handshake_.reset();
    }
  }
  if (!mesh_) {
    mode_ = "userspace";
    mesh_ = openssl_leg(std::move(handshake_), std::move(mesh_fd_));
  }
  Recheck now(shared.security.get()->trust);  // they may have changed meanwhile
  recheck(now);
  if (state_ == State::done) return;
  if (!from_mesh()) return begin_pumping();
  deadline_ = home_.now() + shared.config.timeouts.connect;
  if (!open_socket(local->server, plain_fd_, plain_watch_))
    refuse(refusal(Reason::server_unreachable, std::strerror(errno)));
}

void Link::begin_pumping() {
  state_ = State::pumping;
  plain_ = plain_leg(std::move(plain_fd_));
  pump();
}

// ---- the pump ----

// False: the link is done.
bool Link::check(const KtlsIoResult& result, const Leg& leg) {
  if (result) return true;
  const KtlsError& error = result.error();
  const bool mesh = &leg == mesh_.get();
  std::string detail = mesh ? "the mesh" : from_mesh() ? "the server" : "the client";
  if (error.code != 0) detail += std::string(": ") + std::strerror(error.code);
  if (error.alert != 0) detail += std::string(": ") + SSL_alert_desc_string_long(error.alert);
  finish("failed", {error.name(), detail});
  return false;
}

bool Link::send_rest(Direction& direction, Leg& to) {
  const std::string_view left = std::string_view(direction.rest).substr(direction.rest_sent);
  const auto sent = to.send({reinterpret_cast<const uint8_t*>(left.data()), left.size()});
  if (!check(sent, to)) return false;
  direction.rest_sent += sent->bytes;
  if (direction.blocked()) return false;
  std::string().swap(direction.rest);
  direction.rest_sent = 0;
  return true;
}

// `data`: something moved, and more may be there.
KtlsIo::Event Link::move_once(Direction& direction, Leg& from, Leg& to) {
  using Event = KtlsIo::Event;
  if (direction.blocked() && !send_rest(direction, to)) return Event::would_block;
  if (!direction.received_end) {
    const std::span<uint8_t> scratch = home_.scratch();
    const auto received = from.receive(scratch);
    if (!check(received, from)) return Event::end;
    if (received->event == Event::would_block) return Event::would_block;
    direction.bytes += received->bytes;
    direction.received_end = received->event == Event::end;
    if (received->event == Event::data) {
      const auto bytes = scratch.first(received->bytes);
      const auto sent = to.send(bytes);
      if (!check(sent, to)) return Event::end;
      if (sent->bytes < bytes.size()) {
        direction.rest.assign(reinterpret_cast<const char*>(bytes.data()) + sent->bytes, bytes.size() - sent->bytes);
        direction.rest_sent = 0;
      }
      return Event::data;
    }
  }
  if (direction.sent_end) return Event::end;
  const auto ended = to.end_sending();
  if (!check(ended, to)) return Event::end;
  direction.sent_end = ended->event == Event::data;
  return direction.sent_end ? Event::end : Event::would_block;
}

void Link::pump() {
  struct Way {
    Direction& direction;
    Leg &from, &to;
  };
  for (const Way& way : {Way{inward_, *mesh_, *plain_}, Way{outward_, *plain_, *mesh_}}) {
    for (int round = 0; round < kRoundsMax; round++) {
      if (move_once(way.direction, way.from, way.to) != KtlsIo::Event::data) break;
    }
    if (state_ == State::done) return;
  }
  if (inward_.sent_end && outward_.sent_end) return finish("closed", {});
  watch_legs();
}

uint32_t Link::events_of(Leg& leg, const Direction& in, const Direction& out) const {
  uint32_t events = 0;
  if (!in.received_end && !in.blocked()) events |= EPOLLIN;
  if (out.blocked() || (out.received_end && !out.sent_end) || leg.receiving_wants_output()) events |= EPOLLOUT;
  return events;
}

void Link::watch_legs() {
  if (!mesh_watch_.want(mesh_->fd(), events_of(*mesh_, inward_, outward_)) ||
      !plain_watch_.want(plain_->fd(), events_of(*plain_, outward_, inward_)))
    finish("failed", {ktls_reason_name(KtlsReason::io_failed), "it cannot be watched"});
}

// A connection may end while nothing is wanted of it: a reader that resets while the other side has no room.
void Link::look_for_reset(bool mesh, uint32_t events) {
  if (state_ != State::pumping || !(events & (EPOLLERR | EPOLLHUP))) return;
  Leg& leg = mesh ? *mesh_ : *plain_;
  Watch& watch = mesh ? mesh_watch_ : plain_watch_;
  const int code = socket_error(leg.fd());
  if (code != 0) {
    check(unexpected(KtlsError{KtlsReason::io_failed, code}), leg);
  } else if (watch.idle()) {
    watch.forget();  // both ways have ended here; poll() would say so for ever
  }
}

// ---- the end ----

void Link::refuse(Refusal why) {
  mesh_watch_.forget();
  if (from_mesh() && mesh_fd_) close_gently(mesh_fd_, home_.scratch());
  finish("refused", why);
}

void Link::finish(const char* outcome, const Refusal& why) {
  assert(state_ != State::done);
  if (state_ == State::handshake && from_mesh()) home_.handshake_over(*this);
  state_ = State::done;
  mesh_watch_.forget();
  plain_watch_.forget();
  write_record(outcome, why);
  if (!why.reason.empty()) {
    // Neither side may take what it got for all there was.
    for (const int fd : {mesh_ ? mesh_->fd() : mesh_fd_.get(), plain_ ? plain_->fd() : plain_fd_.get()}) {
      if (fd >= 0) reset_on_close(fd);
    }
  }
  home_.link_done(*this);
}

void Link::write_record(const char* outcome, const Refusal& why) {
  Shared& shared = home_.shared();
  shared.counters.received_bytes += inward_.bytes;
  shared.counters.sent_bytes += outward_.bytes;
  if (!why.reason.empty()) shared.counters.count_reason(why.reason);
  if (!shared.access_log.enabled()) return;
  const LogLevel level = why.reason.empty() ? LogLevel::info : LogLevel::warning;
  shared.access_log.write(format_log_line(shared.access_log.format(), level, utc_now(), outcome,
                                          {{"from", from_mesh() ? "mesh" : "local"},
                                           {"client", client_.to_string()},
                                           {"service", service_name_},
                                           {"peer", peer_},
                                           {"reason", why.reason},
                                           {"detail", why.detail},
                                           {"mode", mode_},
                                           {"received_bytes", std::to_string(inward_.bytes)},
                                           {"sent_bytes", std::to_string(outward_.bytes)},
                                           {"duration_ms", std::to_string((home_.now() - began_).count())}}) +
                          "\n");
}

}  // namespace shunt::gateway
