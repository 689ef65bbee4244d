#include "ktls/life.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <optional>
#include <type_traits>

#include "support/sandbox.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

namespace {

constexpr std::chrono::milliseconds kPatience = std::chrono::seconds(30);
constexpr size_t kHalf = 20'000;
constexpr size_t kFailuresMax = 5;

// Everything that is sent, in halves.
const std::string& text_of(Role sender) {
  static const std::string texts[] = {marked(71, 2 * kHalf), marked(72, 2 * kHalf)};
  return texts[static_cast<int>(sender)];
}

bool is_beginning(const std::string& part, const std::string& whole) {
  return whole.compare(0, part.size(), part) == 0;
}

size_t descriptors() {
  const std::filesystem::directory_iterator open("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(open), end(open)));
}

SSL_CTX* peer_context(Role role) {
  static const SslContext contexts[] = {SslContext(SSL_CTX_new(TLS_client_method())),
                                        SslContext(SSL_CTX_new(TLS_server_method()))};
  SSL_CTX* ctx = contexts[static_cast<int>(role)].get();
  static const bool used = [] {
    for (Role one : {Role::client, Role::server}) Pki::get().use(contexts[static_cast<int>(one)].get(), one);
    return true;
  }();
  require(ctx && used, "SSL_CTX_new");
  return ctx;
}

// ---- the peer: OpenSSL, in a thread of its own ----

class Peer {
 public:
  Peer(const LifePlan& plan, UniqueFd fd, Wire& wire)
      : plan_(plan), role_(other(plan.role)), fd_(std::move(fd)), wire_(wire), thread_([this] { live(); }) {}
  ~Peer() { join(); }
  void join() {
    if (thread_.joinable()) thread_.join();
  }
  // Our end has its keys where they are to be: what ends the connection may come.
  void go_on() {
    may_end_.test_and_set();
    may_end_.notify_one();
  }

  // After join().
  std::string got;
  bool got_end = false;     // close_notify
  bool bad_record = false;  // it could not decrypt what came
  bool sent_end = false;

 private:
  void live() {
    set_receive_timeout(fd_.get(), kPatience);
    set_send_timeout(fd_.get(), kPatience);
    ssl_.reset(SSL_new(peer_context(role_)));
    SSL_set_fd(ssl_.get(), fd_.get());
    if ((role_ == Role::client ? SSL_connect(ssl_.get()) : SSL_accept(ssl_.get())) == 1) {
      send();
      receive();
    }
    // Unread bytes would make a reset of the end, which overtakes the alert.
    ::shutdown(fd_.get(), SHUT_WR);
    receive_to_eof(fd_.get(), kPatience);
    ERR_clear_error();
    ssl_.reset();
    fd_.reset();
  }

  void send() {
    const std::string& text = text_of(role_);
    // The ticket goes with it: while one waits there is no KeyUpdate.
    if (role_ == Role::server) require(SSL_new_session_ticket(ssl_.get()) == 1, "make a ticket");
    if (!ssl_write_all(ssl_.get(), text.substr(0, kHalf))) return;
    may_end_.wait(false);
    if (plan_.settings.rekey || plan_.ending == Ending::key_update)
      require(SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_REQUESTED) == 1, "update keys");
    if (plan_.ending == Ending::changed_bit) corrupt_the_rest();
    if (!ssl_write_all(ssl_.get(), text.substr(kHalf))) return;
    if (plan_.ending == Ending::truncation) ::shutdown(fd_.get(), SHUT_WR);
    if (plan_.ending != Ending::close_notify) return;
    sent_end = true;
    SSL_shutdown(ssl_.get());
  }

  void corrupt_the_rest() {
    const auto all_seen = [&] { return wire_.seen(role_).size() >= BIO_number_written(SSL_get_wbio(ssl_.get())); };
    require(eventually(all_seen, kPatience), "get the first half through");
    wire_.corrupt_next(role_);
  }

  void receive() {
    char bytes[4096];
    size_t n = 0;
    ERR_clear_error();
    while (SSL_read_ex(ssl_.get(), bytes, sizeof(bytes), &n) == 1) got.append(bytes, n);
    got_end = SSL_get_error(ssl_.get(), 0) == SSL_ERROR_ZERO_RETURN;
    bad_record = ERR_GET_REASON(ERR_peek_error()) == SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC;
  }

  const LifePlan& plan_;
  const Role role_;
  UniqueFd fd_;
  Wire& wire_;
  SslSession ssl_;
  std::atomic_flag may_end_;
  std::thread thread_;
};

// ---- our end ----

std::span<const uint8_t> span_of(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

class Life {
 public:
  Life(const LifePlan& plan, FailingStep& fault, Wire& wire, Peer& peer, UniqueFd fd)
      : plan_(plan), fault_(fault), wire_(wire), peer_(peer), fd_(std::move(fd)) {
    ctx_.reset(SSL_CTX_new(plan.role == Role::client ? TLS_client_method() : TLS_server_method()));
    Pki::get().use(ctx_.get(), plan.role);
    set_receive_timeout(fd_.get(), kPatience);
    set_send_timeout(fd_.get(), kPatience);
    fault_.watch(fd_.get());
  }

  void run() {
    if (!prepare() || !shake_hands() || !take_session()) return;
    peer_.go_on();
    send_half(0);
    receive_half(0);
    if (plan_.settings.rekey) update_keys();
    if (plan_.from == LifePlan::From::ending) from_ = plan_.from;
    if (plan_.ending == Ending::alert) wire_.corrupt_next(plan_.role);
    send_half(1);
    receive_half(1);
    if (plan_.ending != Ending::alert) end_sending();
    receive_to_end();
    look_again();
  }

  // Closes.
  void leave() {
    peer_.go_on();
    from_ = plan_.from;
    walk([&] {
      socket_.reset();
      ssl_.reset();
      fd_.reset();
    });
    ERR_clear_error();
  }

  std::string complaint, got, ending = "nothing";
  bool got_end = false, sent_end = false;

 private:
  using From = LifePlan::From;

  // Steps are counted, if it is time.
  template <typename Call>
  std::invoke_result_t<Call> walk(Call call) {
    std::optional<Walk> counted;
    if (from_ >= plan_.from) counted.emplace();
    return call();
  }

  bool prepare() {
    return walk([&] {
      if (!ktls_prepare(ctx_.get(), plan_.settings)) return false;
      ssl_.reset(SSL_new(ctx_.get()));
      return ssl_ && ktls_prepare(ssl_.get()).has_value() && SSL_set_fd(ssl_.get(), fd_.get()) == 1;
    });
  }

  bool shake_hands() {
    for (;;) {
      const int result = walk([&] {
        ERR_clear_error();
        return plan_.role == Role::client ? SSL_connect(ssl_.get()) : SSL_accept(ssl_.get());
      });
      if (result == 1) return true;
      if (!is_temporary(SSL_get_error(ssl_.get(), result)) || !await(wanted_)) return false;
    }
  }

  bool take_session() {
    from_ = From::handoff;
    const int number = fd_.get();
    std::optional<InjectedFault> kernel;
    if (plan_.keys == Keys::in_openssl) kernel.emplace(Fault::ulp, ENOENT);
    if (plan_.keys == Keys::pretended) kernel.emplace(Fault::none, 0, true);
    auto socket = walk([&] { return hand_off(ssl_.get(), fd_); });
    kernel.reset();
    if (socket) {
      socket_.emplace(std::move(*socket));
      return plan_.keys == Keys::in_kernel;  // otherwise all would be plaintext
    }
    if (fd_) return true;
    if (fcntl(number, F_GETFD) != -1) complain("the socket is open after " + socket.error().to_string());
    // What an owner that has not understood might try.
    if (ssl_write_all(ssl_.get(), text_of(plan_.role))) complain("the SSL sends after a failed handoff");
    SSL_shutdown(ssl_.get());
    return false;
  }

  void update_keys() {
    if (sending_failed_) return;
    const bool updated = socket_ ? repeat(POLLOUT, [&] { return socket_->update_keys(true); }).has_value()
                                 : walk([&] { return SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_REQUESTED) == 1; });
    if (!updated) fail(sending_failed_);
  }

  void send_half(size_t half) {
    const std::string part = text_of(plan_.role).substr(half * kHalf, kHalf);
    const bool by_pipe = socket_ && half == 1;
    Pipe pipe;
    size_t in_pipe = 0;
    for (size_t at = 0; at < part.size() && !sending_failed_;) {
      if (by_pipe && in_pipe == 0) {
        const ssize_t n = ::write(pipe.writing.get(), part.data() + at, part.size() - at);
        require(n > 0, "fill a pipe");
        in_pipe = static_cast<size_t>(n);
      }
      const auto sent = repeat(POLLOUT, [&] {
        return by_pipe ? socket_->send_from_pipe(pipe.reading.get(), in_pipe) : send(span_of(part).subspan(at));
      });
      if (!sent) return fail(sending_failed_);
      at += sent->bytes;
      if (by_pipe) in_pipe -= sent->bytes;
    }
  }

  void receive_half(size_t half) {
    Pipe pipe;
    uint8_t bytes[4096];
    const size_t wanted = (half + 1) * kHalf;
    while (got.size() < wanted && !receiving_ended_) {
      const size_t room = std::min(wanted - got.size(), sizeof(bytes));
      const bool by_pipe = socket_ && half == 1;
      const auto received = repeat(POLLIN, [&] {
        return by_pipe ? socket_->recv_to_pipe(pipe.writing.get(), room) : receive(std::span(bytes).first(room));
      });
      if (!note(received)) return;
      if (by_pipe && received->bytes > 0)
        require(::read(pipe.reading.get(), bytes, received->bytes) == static_cast<ssize_t>(received->bytes),
                "read a pipe");
      got.append(reinterpret_cast<const char*>(bytes), received->bytes);
    }
  }

  // Also after a failure: then nobody may take it for a clean end.
  void end_sending() {
    if (sending_failed_ && !socket_) return;
    sent_end = !sending_failed_;
    const auto ended = repeat(POLLOUT, [&] { return socket_ ? socket_->shutdown() : shut_down_ssl(); });
    if (ended && sending_failed_) complain("a clean end after a failed send");
  }

  void receive_to_end() {
    uint8_t byte[1];
    while (!receiving_ended_) {
      const auto received = repeat(POLLIN, [&] { return receive(byte); });
      if (note(received)) got.append(1, static_cast<char>(byte[0]));
    }
  }

  // What has ended or failed once stays so.
  void look_again() {
    if (!socket_) return;
    uint8_t byte[1];
    const auto again = socket_->recv(byte);
    const std::string now = !again ? again.error().name() : again->event == KtlsIo::Event::end ? "end" : "more";
    if (now != ending) complain(ending + ", and then " + now);
  }

  // ---- calls of either kind of session ----

  KtlsIoResult send(std::span<const uint8_t> bytes) {
    if (socket_) return socket_->send(bytes);
    size_t n = 0;
    ERR_clear_error();
    return SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &n) == 1 ? KtlsIo{KtlsIo::Event::data, n} : trouble(0);
  }

  KtlsIoResult receive(std::span<uint8_t> into) {
    if (socket_) return socket_->recv(into);
    size_t n = 0;
    ERR_clear_error();
    return SSL_read_ex(ssl_.get(), into.data(), into.size(), &n) == 1 ? KtlsIo{KtlsIo::Event::data, n} : trouble(0);
  }

  KtlsIoResult shut_down_ssl() {
    ERR_clear_error();
    const int result = SSL_shutdown(ssl_.get());
    if (result < 0 && !(SSL_get_shutdown(ssl_.get()) & SSL_SENT_SHUTDOWN)) return trouble(result);
    if (result < 0 && SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_WRITE) return trouble(result);
    ::shutdown(fd_.get(), SHUT_WR);
    return KtlsIo{};
  }

  KtlsIoResult trouble(int result) {
    const int error = SSL_get_error(ssl_.get(), result);
    if (error == SSL_ERROR_ZERO_RETURN) return KtlsIo{KtlsIo::Event::end, 0};
    if (is_temporary(error)) return KtlsIo{KtlsIo::Event::would_block, 0};
    return unexpected(KtlsError{KtlsReason::io_failed, errno});
  }

  bool is_temporary(int error) {
    wanted_ = error == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN;
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
  }

  // Until it says something else than to come again.
  template <typename Call>
  KtlsIoResult repeat(short events, Call call) {
    for (;;) {
      auto result = walk(call);
      if (!result || result->event != KtlsIo::Event::would_block) return result;
      if (!await(socket_ ? events : wanted_)) return unexpected(KtlsError{KtlsReason::io_failed, ETIMEDOUT});
    }
  }

  bool await(short events) {
    pollfd waiting{socket_ ? socket_->fd() : fd_.get(), events, 0};
    if (poll(&waiting, 1, static_cast<int>(kPatience.count())) > 0) return true;
    complain("it hangs");
    return false;
  }

  // Whether bytes came; what else it was.
  bool note(const KtlsIoResult& received) {
    if (received && received->event == KtlsIo::Event::data) return true;
    got_end = received && received->event == KtlsIo::Event::end;
    ending = got_end ? "end" : received.error().name();
    fail(receiving_ended_);
    return false;
  }

  // OpenSSL's sessions can do nothing any more after an error.
  void fail(bool& direction) {
    direction = true;
    if (!socket_ && !got_end) sending_failed_ = receiving_ended_ = true;
  }

  void complain(const std::string& what) { complaint += what + "; "; }

  const LifePlan& plan_;
  FailingStep& fault_;
  Wire& wire_;
  Peer& peer_;
  UniqueFd fd_;
  SslContext ctx_;
  SslSession ssl_;
  std::optional<KtlsSocket> socket_;
  From from_ = From::preparation;
  short wanted_ = 0;  // events, by OpenSSL
  bool sending_failed_ = false, receiving_ended_ = false;
};

std::string complaint_of(const Life& ours, const Peer& peer, const LifePlan& plan) {
  std::string complaint = ours.complaint;
  const std::string &to_peer = text_of(plan.role), &to_us = text_of(other(plan.role));
  if (!is_beginning(ours.got, to_us)) complaint += "we received what nobody sent; ";
  if (ours.got_end && (ours.got != to_us || !peer.sent_end)) complaint += "we took a part for the whole; ";
  if (!is_beginning(peer.got, to_peer)) complaint += "the peer received what nobody sent; ";
  if (peer.got_end && (peer.got != to_peer || !ours.sent_end)) complaint += "the peer took a part for the whole; ";
  // OpenSSL without memory may send its own alert under keys of before.
  if (peer.bad_record && plan.keys == Keys::in_kernel && plan.ending != Ending::alert)
    complaint += "the peer cannot decrypt; ";
  return complaint;
}

Outcome live_on(const LifePlan& plan, FailingStep& fault) {
  UniqueFd listener = listen_tcp();
  Connection near_client = connect_through(listener.get(), local_endpoint(listener.get()));
  Connection near_server = connect_through(listener.get(), local_endpoint(listener.get()));
  listener.reset();
  Wire wire(std::move(near_client.server), std::move(near_server.server));
  const bool is_client = plan.role == Role::client;
  Peer peer(plan, std::move(is_client ? near_server.client : near_client.client), wire);
  Life ours(plan, fault, wire, peer, std::move(is_client ? near_client.client : near_server.client));
  ours.run();
  ours.leave();
  peer.join();
  wire.stop();
  Outcome outcome;
  outcome.complaint = complaint_of(ours, peer, plan);
  outcome.whole = ours.got_end && peer.got_end;
  outcome.ending = ours.ending;
  for (Role sender : {Role::client, Role::server}) {
    const std::string seen = wire_complaint(wire.seen(sender), !outcome.whole);
    if (!seen.empty()) outcome.complaint += (sender == plan.role ? "from us: " : "from the peer: ") + seen + "; ";
  }
  return outcome;
}

}  // namespace

Outcome live(const LifePlan& plan, FailingStep& fault) {
  peer_context(Role::client);
  const size_t before = descriptors();
  Outcome outcome = live_on(plan, fault);
  const size_t after = descriptors();
  if (after != before)
    outcome.complaint += std::to_string(after) + " descriptors after " + std::to_string(before) + "; ";
  return outcome;
}

void fail_each_step(const LifePlan& plan, const std::string& ending, std::set<std::string>& ways) {
  size_t lives = 0, steps = 0, failures = 0;
  for (const std::string& call : steps_of_a_walk()) {
    for (size_t number = 1, way = 0; failures < kFailuresMax; lives++) {
      FailingStep fault(call, number, way);
      const Outcome outcome = live(plan, fault);
      const bool harmed = fault.harmless() && (outcome.ending != ending || outcome.whole != (ending == "end"));
      failures += harmed || !outcome.complaint.empty();
      EXPECT_EQ(outcome.complaint, "") << fault.name() << ", number " << number;
      EXPECT_FALSE(harmed) << fault.name() << ", number " << number << ": " << outcome.ending;
      if (!fault.injected()) break;
      ways.insert(fault.name());
      way = fault.is_last_way() ? 0 : way + 1;
      number += way == 0;
      steps += way == 0;
    }
  }
  EXPECT_GT(steps, 0u) << "nothing was counted";
  printf("%zu lives, %zu steps\n", lives, steps);
}

}  // namespace shunt::test
