#include <fcntl.h>
#include <linux/tcp.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "derive.hpp"
#include "ktls.hpp"

namespace shunt {

namespace {

// RFC 8446 section 5.1, 4 and 6.
enum ContentType { kEndOfTcp = 0, kAlert = 21, kHandshake = 22, kApplicationData = 23 };
enum HandshakeType { kNewSessionTicket = 4, kKeyUpdate = 24 };
enum AlertDescription {
  kCloseNotify = 0,
  kUnexpectedMessage = 10,
  kBadRecordMac = 20,
  kRecordOverflow = 22,
  kIllegalParameter = 47,
  kDecodeError = 50,
  kInternalError = 80,
  kUserCanceled = 90,
};
constexpr uint8_t kWarning = 1, kFatal = 2;

constexpr size_t kRecordBytesMax = size_t{1} << 14;
// Header, inner content type and tag; the same for the three ciphers.
constexpr uint64_t kRecordOverhead = 5 + 1 + 16;
// The parts of NewSessionTicket with 16-bit lengths at their limits, and the rest.
constexpr size_t kTicketBytesMax = 2 * 65536 + 512;
// A server may send 255 tickets at once; nobody has a reason for more without data in between.
constexpr uint64_t kMessagesRunMax = 512;
constexpr uint64_t kMessageBytesRunMax = uint64_t{1} << 20;

bool is_would_block(int code) { return code == EAGAIN || code == EWOULDBLOCK; }

KtlsIo would_block() { return {KtlsIo::Event::would_block, 0}; }

// Bytes that were ever written to TCP: those sent for the first time, and those not sent yet.
bool tcp_position(int fd, uint64_t& position) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return false;
  position = info.tcpi_bytes_sent - info.tcpi_bytes_retrans + info.tcpi_notsent_bytes;
  return true;
}

}  // namespace

KtlsSocket::KtlsSocket(Parts parts)
    : fd_(std::move(parts.fd)),
      cipher_(parts.cipher),
      is_server_(parts.is_server),
      settings_(parts.settings),
      tx_(std::move(parts.tx)),
      rx_(std::move(parts.rx)) {
  tcp_position(fd_.get(), wire_start_);
}

KtlsError KtlsSocket::break_off(KtlsError error, int alert) {
  if (!sent_close_notify_ && !send_error_) {
    // A record that cannot be decrypted leaves the socket in error, which would refuse the alert: asking clears it.
    int ignored = 0;
    socklen_t size = sizeof(ignored);
    getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &ignored, &size);
    const uint8_t body[] = {kFatal, static_cast<uint8_t>(alert)};
    send_control(kAlert, body, MSG_DONTWAIT);
  }
  ::shutdown(fd_.get(), SHUT_RDWR);
  receive_error_ = error;
  send_error_ = error;
  return error;
}

// ---- sending ----

uint64_t KtlsSocket::key_records() const {
  uint8_t bytes[sizeof(tls12_crypto_info_aes_gcm_256)];
  static_assert(sizeof(bytes) >= sizeof(tls12_crypto_info_chacha20_poly1305));
  socklen_t size = cipher_->crypto_bytes;
  uint64_t sequence = 0;
  if (getsockopt(fd_.get(), SOL_TLS, TLS_TX, bytes, &size) == 0) {
    // Big-endian, the last field of all three structures.
    for (size_t at = size - sizeof(sequence); at < size; at++) sequence = sequence << 8 | bytes[at];
  }
  OPENSSL_cleanse(bytes, sizeof(bytes));  // the kernel tells the key as well
  return sequence;
}

std::optional<KtlsError> KtlsSocket::send_trouble() const {
  if (send_error_) return send_error_;
  if (sent_close_notify_) return KtlsError{KtlsReason::sending_ended};
  return {};
}

// 0, or a positive errno.
int KtlsSocket::send_control(int type, std::span<const uint8_t> body, int flags) {
  alignas(cmsghdr) char control[CMSG_SPACE(1)] = {};
  iovec part{const_cast<uint8_t*>(body.data()), body.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_TLS;
  header->cmsg_type = TLS_SET_RECORD_TYPE;
  header->cmsg_len = CMSG_LEN(1);
  *CMSG_DATA(header) = static_cast<uint8_t>(type);
  ssize_t sent;
  do {
    sent = sendmsg(fd_.get(), &message, flags | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return errno;
  sent_bytes_ += static_cast<size_t>(sent);
  key_records_bound_++;
  // A control record is never split: its bytes are in one open record, which the kernel closes with the call.
  return static_cast<size_t>(sent) == body.size() ? 0 : EIO;
}

// The KeyUpdate is the last record under the old key (RFC 8446 section 4.6.3): nothing may be sent between it and
// TLS_TX.
KtlsIoResult KtlsSocket::flush_key_update(int flags) {
  if (!owes_key_update_) return KtlsIo{};
  const uint8_t message[] = {kKeyUpdate, 0, 0, 1, static_cast<uint8_t>(asks_key_update_ ? 1 : 0)};
  const int code = send_control(kHandshake, message, flags);
  if (is_would_block(code)) return would_block();
  if (code) return unexpected(*(send_error_ = KtlsError{KtlsReason::io_failed, code}));
  owes_key_update_ = asks_key_update_ = false;
  old_key_records_ += key_records();
  CryptoInfo next;
  int refused = 0;
  if (!advance_secret(*cipher_, tx_) || !next.derive(*cipher_, tx_.bytes()) ||
      (refused = next.install(fd_.get(), TLS_TX)) != 0) {
    send_error_ = KtlsError{KtlsReason::rekey_failed, refused};  // not even an alert can be sent any more
    return unexpected(break_off(*send_error_, kInternalError));
  }
  key_records_bound_ = 0;
  counts_.key_updates_sent++;
  return KtlsIo{};
}

KtlsIoResult KtlsSocket::before_send(int flags) {
  if (auto trouble = send_trouble()) return unexpected(*trouble);
  if (key_records_bound_ >= settings_.key_records_max) {
    key_records_bound_ = key_records();
    const bool used_up = key_records_bound_ >= settings_.key_records_max;
    if (used_up && !settings_.rekey) return unexpected(*(send_error_ = KtlsError{KtlsReason::key_used_up}));
    if (used_up) owes_key_update_ = true;
  }
  return flush_key_update(flags);
}

KtlsIoResult KtlsSocket::after_send(ssize_t sent) {
  if (sent >= 0) {
    sent_bytes_ += static_cast<size_t>(sent);
    return KtlsIo{KtlsIo::Event::data, static_cast<size_t>(sent)};
  }
  if (is_would_block(errno)) return would_block();
  return unexpected(*(send_error_ = KtlsError{KtlsReason::io_failed, errno}));
}

KtlsIoResult KtlsSocket::send(std::span<const uint8_t> bytes) {
  auto ready = before_send(0);
  if (!ready || ready->event == KtlsIo::Event::would_block || bytes.empty()) return ready;
  ssize_t sent;
  do {
    sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent > 0) key_records_bound_ += (static_cast<size_t>(sent) + kRecordBytesMax - 1) / kRecordBytesMax;
  return after_send(sent);
}

KtlsIoResult KtlsSocket::send_from_pipe(int pipe, size_t bytes_max) {
  auto ready = before_send(MSG_DONTWAIT);
  if (!ready || ready->event == KtlsIo::Event::would_block) return ready;
  ssize_t sent;
  do {
    sent = splice(pipe, nullptr, fd_.get(), nullptr, bytes_max, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  } while (sent < 0 && errno == EINTR);
  // At most a record for each buffer of the pipe, which may hold a single byte.
  if (sent > 0) key_records_bound_ += static_cast<size_t>(sent);
  return after_send(sent);
}

KtlsIoResult KtlsSocket::update_keys(bool ask_peer) {
  if (auto trouble = send_trouble()) return unexpected(*trouble);
  if (!settings_.rekey) return unexpected(KtlsError{KtlsReason::rekey_unsupported});
  owes_key_update_ = true;
  asks_key_update_ = asks_key_update_ || ask_peer;
  return flush_key_update(0);
}

// A record that TCP had no room for is held back by the kernel's TLS layer, which shutdown(2) and close(2) do not wait
// for: they would cut it off. So what should be on the wire is compared with what TCP has got.
bool KtlsSocket::all_in_tcp() {
  uint64_t position = 0;
  if (!tcp_position(fd_.get(), position)) return true;
  return position - wire_start_ >= sent_bytes_ + (old_key_records_ + key_records()) * kRecordOverhead;
}

KtlsIoResult KtlsSocket::shutdown() {
  if (sent_end_) return KtlsIo{};
  if (send_error_) return unexpected(*send_error_);
  if (!sent_close_notify_) {
    const uint8_t body[] = {kWarning, kCloseNotify};
    const int code = send_control(kAlert, body, 0);
    if (is_would_block(code)) return would_block();
    if (code) return unexpected(*(send_error_ = KtlsError{KtlsReason::io_failed, code}));
    sent_close_notify_ = true;
  }
  if (!all_in_tcp()) return would_block();
  // The peer may have reset the connection meanwhile: then there is nothing left to end.
  ::shutdown(fd_.get(), SHUT_WR);
  sent_end_ = true;
  return KtlsIo{};
}

// ---- receiving ----

// One recvmsg(): bytes of one record's type.
Result<KtlsSocket::Received, KtlsError> KtlsSocket::receive_once(std::span<uint8_t> into, int flags) {
  alignas(cmsghdr) char control[CMSG_SPACE(1)] = {};
  iovec part{into.data(), into.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t got;
  do {
    got = recvmsg(fd_.get(), &message, flags);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return unexpected(KtlsError{KtlsReason::io_failed, errno});
  Received received{static_cast<size_t>(got), kEndOfTcp};
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header && header->cmsg_level == SOL_TLS && header->cmsg_type == TLS_GET_RECORD_TYPE) {
    received.type = *CMSG_DATA(header);
  } else if (got > 0) {
    received.type = kApplicationData;
  }
  return received;
}

// What of it ends a call; nothing: receive again.
std::optional<KtlsIoResult> KtlsSocket::digest(const Result<Received, KtlsError>& received,
                                               std::span<const uint8_t> bytes) {
  if (!received) {
    const int code = received.error().code;
    if (is_would_block(code)) return would_block();
    // What tls_sw.c says of records: wrong tag or padding, too long, wrong version or too short.
    if (code == EBADMSG) return unexpected(break_off({KtlsReason::bad_record, code}, kBadRecordMac));
    if (code == EMSGSIZE) return unexpected(break_off({KtlsReason::bad_record, code}, kRecordOverflow));
    if (code == EINVAL) return unexpected(break_off({KtlsReason::bad_record, code}, kDecodeError));
    return unexpected(*(receive_error_ = received.error()));
  }
  if (received->type == kEndOfTcp) return unexpected(*(receive_error_ = KtlsError{KtlsReason::truncated}));
  if (received->type == kApplicationData) return on_data(received->bytes);
  if (auto trouble = on_control(received->type, bytes)) return unexpected(*trouble);
  if (received_end_) return KtlsIo{KtlsIo::Event::end, 0};
  return {};
}

std::optional<KtlsIoResult> KtlsSocket::on_data(size_t bytes) {
  if (head_bytes_ > 0 || alert_bytes_ > 0)  // a message's fragments stand together (RFC 8446 section 5.1)
    return unexpected(break_off({KtlsReason::unexpected_message}, kUnexpectedMessage));
  messages_run_ = message_bytes_run_ = 0;
  if (bytes == 0) return {};
  return KtlsIo{KtlsIo::Event::data, bytes};
}

std::optional<KtlsIoResult> KtlsSocket::receive_ended() const {
  if (receive_error_) return unexpected(*receive_error_);
  if (received_end_) return KtlsIo{KtlsIo::Event::end, 0};
  return {};
}

KtlsIoResult KtlsSocket::recv(std::span<uint8_t> into) {
  assert(!into.empty());
  if (auto ended = receive_ended()) return *ended;
  for (;;) {
    auto received = receive_once(into, 0);
    if (auto result = digest(received, into.first(received ? received->bytes : 0))) return *result;
  }
}

KtlsIoResult KtlsSocket::recv_to_pipe(int pipe, size_t bytes_max) {
  if (auto ended = receive_ended()) return *ended;
  for (;;) {
    ssize_t got;
    do {
      got = splice(fd_.get(), nullptr, pipe, nullptr, bytes_max, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    } while (got < 0 && errno == EINTR);
    const int code = got < 0 ? errno : 0;
    if (is_would_block(code)) return would_block();
    if (got > 0) {
      if (auto result = on_data(static_cast<size_t>(got))) return *result;
      continue;
    }
    // The end, trouble, or a control record (EINVAL). A look tells which: data must not be taken here.
    uint8_t bytes[256];
    auto seen = receive_once(bytes, MSG_PEEK | MSG_DONTWAIT);
    if (seen && seen->type == kApplicationData) {
      if (code == 0) continue;
      return unexpected(*(receive_error_ = KtlsError{KtlsReason::io_failed, code}));
    }
    // Exactly what was seen: with room for more, older kernels would append the next record, which may be under new
    // keys.
    if (seen && seen->bytes > 0) seen = receive_once(std::span(bytes).first(seen->bytes), MSG_DONTWAIT);
    if (auto result = digest(seen, std::span(bytes).first(seen ? seen->bytes : 0))) return *result;
  }
}

std::optional<KtlsError> KtlsSocket::on_control(int type, std::span<const uint8_t> bytes) {
  message_bytes_run_ += bytes.size();
  if (messages_run_ >= kMessagesRunMax || message_bytes_run_ > kMessageBytesRunMax)
    return break_off({KtlsReason::too_many_messages}, kUnexpectedMessage);
  // Empty fragments are allowed for data only (RFC 8446 section 5.1).
  if (bytes.empty()) return break_off({KtlsReason::unexpected_message}, kUnexpectedMessage);
  if (type == kAlert) return on_alert(bytes);
  if (type == kHandshake) return on_handshake(bytes);
  return break_off({KtlsReason::unexpected_message}, kUnexpectedMessage);
}

std::optional<KtlsError> KtlsSocket::on_alert(std::span<const uint8_t> bytes) {
  for (const uint8_t byte : bytes) {
    if (alert_bytes_ == alert_.size()) return break_off({KtlsReason::unexpected_message}, kDecodeError);
    alert_[alert_bytes_++] = byte;
  }
  if (alert_bytes_ < alert_.size()) return {};
  alert_bytes_ = 0;
  messages_run_++;
  const int description = alert_[1];  // the level says nothing in TLS 1.3 (RFC 8446 section 6)
  if (description == kUserCanceled) return {};
  if (description == kCloseNotify) {
    received_end_ = true;
    return {};
  }
  KtlsError error{KtlsReason::peer_alert, 0, description};
  receive_error_ = error;
  send_error_ = error;
  ::shutdown(fd_.get(), SHUT_RDWR);
  return error;
}

std::optional<KtlsError> KtlsSocket::on_handshake(std::span<const uint8_t> bytes) {
  for (size_t at = 0; at < bytes.size();) {
    if (head_bytes_ < head_.size()) {
      head_[head_bytes_++] = bytes[at++];
      if (head_bytes_ < head_.size()) continue;
      if (auto trouble = on_handshake_head()) return trouble;
      continue;
    }
    const size_t taken = std::min(body_left_, bytes.size() - at);
    at += taken;
    body_left_ -= taken;
    if (body_left_ > 0) continue;
    head_bytes_ = 0;
    messages_run_++;
    if (head_[0] == kNewSessionTicket) {
      counts_.tickets_dropped++;
      continue;
    }
    // A KeyUpdate ends its record (RFC 8446 section 5.1): what follows is under the new keys.
    if (at < bytes.size()) return break_off({KtlsReason::unexpected_message}, kUnexpectedMessage);
    return on_key_update(bytes[at - 1]);
  }
  return {};
}

// Type and length of the message are known.
std::optional<KtlsError> KtlsSocket::on_handshake_head() {
  body_left_ = size_t{head_[1]} << 16 | size_t{head_[2]} << 8 | head_[3];
  if (head_[0] == kKeyUpdate && body_left_ == 1) return {};
  if (head_[0] == kNewSessionTicket && !is_server_ && body_left_ > 0 && body_left_ <= kTicketBytesMax) return {};
  return break_off({KtlsReason::unexpected_message}, kUnexpectedMessage);
}

std::optional<KtlsError> KtlsSocket::on_key_update(uint8_t request) {
  counts_.key_updates_received++;
  if (request > 1) return break_off({KtlsReason::unexpected_message}, kIllegalParameter);
  if (!settings_.rekey) return break_off({KtlsReason::rekey_unsupported}, kInternalError);
  CryptoInfo next;
  if (!advance_secret(*cipher_, rx_) || !next.derive(*cipher_, rx_.bytes()))
    return break_off({KtlsReason::rekey_failed}, kInternalError);
  const int code = next.install(fd_.get(), TLS_RX);
  if (code == EBUSY) return break_off({KtlsReason::rekey_unsupported, code}, kInternalError);
  if (code) return break_off({KtlsReason::rekey_failed, code}, kInternalError);
  if (request == 0 || send_trouble()) return {};
  // The answer may have to wait for room; it goes before the next data. A failed send shows there, too.
  owes_key_update_ = true;
  (void)flush_key_update(MSG_DONTWAIT);
  return {};
}

}  // namespace shunt
