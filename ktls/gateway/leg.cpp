#include <sys/socket.h>

#include <cerrno>
#include <ktls/gateway/leg.hpp>
#include <optional>

namespace shunt::gateway {
namespace {

KtlsIo done(size_t bytes = 0) { return {KtlsIo::Event::data, bytes}; }
KtlsIo would_block() { return {KtlsIo::Event::would_block, 0}; }
KtlsIo end() { return {KtlsIo::Event::end, 0}; }

KtlsIoResult system_failure() {
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return would_block();
  return unexpected(KtlsError{KtlsReason::io_failed, errno});
}

class PlainLeg final : public Leg {
 public:
  explicit PlainLeg(UniqueFd fd) : fd_(std::move(fd)) {}

  KtlsIoResult receive(std::span<uint8_t> into) override {
    const ssize_t got = ::recv(fd_.get(), into.data(), into.size(), MSG_DONTWAIT);
    if (got < 0) return system_failure();
    return got == 0 ? end() : done(static_cast<size_t>(got));
  }
  KtlsIoResult send(std::span<const uint8_t> bytes) override {
    const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? system_failure() : done(static_cast<size_t>(sent));
  }
  KtlsIoResult end_sending() override {
    // The other end may have reset the connection meanwhile: receiving tells.
    ::shutdown(fd_.get(), SHUT_WR);
    return done();
  }
  int fd() const override { return fd_.get(); }

 private:
  UniqueFd fd_;
};

class KtlsLeg final : public Leg {
 public:
  explicit KtlsLeg(KtlsSocket socket) : socket_(std::move(socket)) {}

  KtlsIoResult receive(std::span<uint8_t> into) override { return socket_.recv(into); }
  KtlsIoResult send(std::span<const uint8_t> bytes) override { return socket_.send(bytes); }
  KtlsIoResult end_sending() override { return socket_.shutdown(); }
  int fd() const override { return socket_.fd(); }

 private:
  KtlsSocket socket_;
};

class OpensslLeg final : public Leg {
 public:
  OpensslLeg(std::unique_ptr<Handshake> handshake, UniqueFd fd)
      : fd_(std::move(fd)), handshake_(std::move(handshake)) {}

  // As many whole records as there are and fit: one call brings one.
  KtlsIoResult receive(std::span<uint8_t> into) override {
    if (receiving_failed_) return unexpected(*receiving_failed_);
    size_t filled = 0;
    receiving_wants_output_ = false;
    while (into.size() - filled >= SSL3_RT_MAX_PLAIN_LENGTH) {
      size_t got = 0;
      prepare_call();
      if (SSL_read_ex(ssl(), into.data() + filled, into.size() - filled, &got) == 1) {
        filled += got;
        continue;
      }
      const int error = SSL_get_error(ssl(), 0);
      const KtlsIoResult result = error == SSL_ERROR_ZERO_RETURN ? end() : outcome(error);
      receiving_wants_output_ = error == SSL_ERROR_WANT_WRITE;
      // OpenSSL tells the reason of a failure once; an end and a wait stop the next call, too.
      if (!result) receiving_failed_ = result.error();
      if (filled > 0) break;
      return result;
    }
    return done(filled);
  }
  KtlsIoResult send(std::span<const uint8_t> bytes) override {
    size_t sent = 0;
    prepare_call();
    if (SSL_write_ex(ssl(), bytes.data(), bytes.size(), &sent) == 1) return done(sent);
    return outcome(SSL_get_error(ssl(), 0));
  }
  KtlsIoResult end_sending() override {
    prepare_call();
    const int result = SSL_shutdown(ssl());  // 0: ours is sent, the peer's has not come
    if (result < 0) {
      const int error = SSL_get_error(ssl(), result);
      if (!(SSL_get_shutdown(ssl()) & SSL_SENT_SHUTDOWN) || error == SSL_ERROR_WANT_WRITE) return outcome(error);
      ERR_clear_error();
    }
    ::shutdown(fd_.get(), SHUT_WR);
    return done();
  }
  int fd() const override { return fd_.get(); }
  bool receiving_wants_output() const override { return receiving_wants_output_; }

 private:
  SSL* ssl() { return handshake_->ssl(); }

  static void prepare_call() {
    ERR_clear_error();
    errno = 0;
  }

  KtlsIoResult outcome(int error) {
    const int system_error = errno;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return would_block();
    const int reason = ERR_GET_REASON(ERR_peek_error());
    ERR_clear_error();
    if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) return unexpected(KtlsError{KtlsReason::truncated});
    if (error == SSL_ERROR_SYSCALL) return unexpected(KtlsError{KtlsReason::io_failed, system_error});
    if (reason >= SSL_AD_REASON_OFFSET)
      return unexpected(KtlsError{KtlsReason::peer_alert, 0, reason - SSL_AD_REASON_OFFSET});
    if (reason == SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC || reason == SSL_R_WRONG_VERSION_NUMBER)
      return unexpected(KtlsError{KtlsReason::bad_record});
    return unexpected(KtlsError{KtlsReason::unexpected_message});
  }

  UniqueFd fd_;
  std::unique_ptr<Handshake> handshake_;
  bool receiving_wants_output_ = false;
  std::optional<KtlsError> receiving_failed_;
};

}  // namespace

std::unique_ptr<Leg> plain_leg(UniqueFd fd) { return std::make_unique<PlainLeg>(std::move(fd)); }
std::unique_ptr<Leg> ktls_leg(KtlsSocket socket) { return std::make_unique<KtlsLeg>(std::move(socket)); }
std::unique_ptr<Leg> openssl_leg(std::unique_ptr<Handshake> handshake, UniqueFd fd) {
  return std::make_unique<OpensslLeg>(std::move(handshake), std::move(fd));
}

}  // namespace shunt::gateway
