// The library on a kernel with kTLS: one end is in the kernel, the other one is OpenSSL or also in the kernel. The wire
// between them is checked in every test to hold TLS records only.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/tls.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstdio>
#include <future>
#include <ktls/probe.hpp>

#include "ktls/faults.hpp"
#include "ktls/sessions.hpp"
#include "support/sandbox.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

namespace {

constexpr size_t kLargeBytes = 10 * 1000 * 1000;

const KtlsProbeReport& probed() {
  static const KtlsProbeReport report = ktls_probe();
  return report;
}

SessionOptions probed_options(const char* suite = nullptr) {
  SessionOptions options;
  options.settings = probed().settings;
  options.ciphersuites = suite;
  return options;
}

KtlsSocket handed_off(Sessions& sessions, Role role) {
  auto socket = sessions.hand_off(role);
  if (!socket) die(socket.error().to_string());
  EXPECT_FALSE(sessions.fd(role));
  return std::move(*socket);
}

// What the end of a connection is for OpenSSL: SSL_ERROR_ZERO_RETURN after close_notify.
int ssl_end(SSL* ssl) {
  char byte;
  ERR_clear_error();
  const int got = SSL_read(ssl, &byte, 1);
  return got > 0 ? SSL_ERROR_NONE : SSL_get_error(ssl, got);
}

// The alert that OpenSSL has received: its reason codes are 1000 + AlertDescription.
int ssl_received_alert(SSL* ssl) {
  if (ssl_end(ssl) != SSL_ERROR_SSL) return -1;
  const int reason = ERR_GET_REASON(ERR_peek_last_error());
  ERR_clear_error();
  return reason > SSL_AD_REASON_OFFSET ? reason - SSL_AD_REASON_OFFSET : -1;
}

std::string sha256(const std::string& bytes) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  return {reinterpret_cast<char*>(digest), sizeof(digest)};
}

// A record of any type from an end that is in the kernel: what no library would send.
void send_record(KtlsSocket& socket, int type, const std::string& body) {
  alignas(cmsghdr) char control[CMSG_SPACE(1)] = {};
  iovec part{const_cast<char*>(body.data()), body.size()};
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
  require(sendmsg(socket.fd(), &message, MSG_NOSIGNAL) == static_cast<ssize_t>(body.size()), "send a record");
}

KtlsError receive_error(KtlsSocket& socket, size_t piece = 4096) {
  std::string buffer(piece, '\0');
  auto io = socket.recv({reinterpret_cast<uint8_t*>(buffer.data()), piece});
  EXPECT_FALSE(io) << "event " << static_cast<int>(io->event) << ", " << io->bytes << " bytes";
  return io ? KtlsError{KtlsReason::no_ciphers} : io.error();
}

struct Case {
  Role role;  // of the end in the kernel
  KtlsCipher cipher;
  const char* suite;
};

constexpr const char* kSuites[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"};

class EachCase : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    RolesAndCiphers, EachCase,
    testing::Values(Case{Role::client, kKtlsAes128Gcm, kSuites[0]}, Case{Role::client, kKtlsAes256Gcm, kSuites[1]},
                    Case{Role::client, kKtlsChacha20Poly1305, kSuites[2]},
                    Case{Role::server, kKtlsAes128Gcm, kSuites[0]}, Case{Role::server, kKtlsAes256Gcm, kSuites[1]},
                    Case{Role::server, kKtlsChacha20Poly1305, kSuites[2]}),
    [](const auto& info) {
      return std::string(info.param.role == Role::client ? "Client_" : "Server_") + info.param.suite;
    });

class EachRole : public testing::TestWithParam<Role> {};
INSTANTIATE_TEST_SUITE_P(Roles, EachRole, testing::Values(Role::client, Role::server),
                         [](const auto& info) { return info.param == Role::client ? "Client" : "Server"; });

TEST(Probe, FindsWhatTheGuestsHave) {
  for (const ProbeItem& item : probed().items)
    printf("%-30s %d %s %s %.3f s\n", item.name.c_str(), static_cast<int>(item.verdict), item.found.c_str(),
           item.meaning.c_str(), item.seconds);
  ASSERT_TRUE(probed().usable);
  EXPECT_EQ(probed().settings.ciphers, kKtlsAes128Gcm | kKtlsAes256Gcm | kKtlsChacha20Poly1305);
  EXPECT_TRUE(probed().splice_sends);
  EXPECT_TRUE(probed().splice_receives);
}

TEST_P(EachCase, BytesGoBothWaysInSmallAndLargePieces) {
  Sessions sessions(probed_options(GetParam().suite));
  ASSERT_STREQ(SSL_get_cipher_name(sessions.ssl(GetParam().role)), GetParam().suite);
  KtlsSocket socket = handed_off(sessions, GetParam().role);
  SSL* peer = sessions.ssl(other(GetParam().role));
  for (size_t bytes : {1, 100, 16384, 16385, 50000}) {
    const std::string there = marked(bytes, bytes), back = marked(bytes + 1, bytes);
    ASSERT_TRUE(send_all(socket, there));
    ASSERT_EQ(ssl_read_exactly(peer, bytes), there);
    ASSERT_TRUE(ssl_write_all(peer, back));
    ASSERT_EQ(receive_exactly(socket, bytes, bytes > 1000 ? 1000 : 7), back);
  }
}

// Both ends in the kernel.
TEST_P(EachRole, KernelToKernelTakingTurns) {
  constexpr size_t kBytes = 3'000'000;
  Sessions sessions(probed_options(GetParam() == Role::client ? kSuites[0] : kSuites[1]));
  KtlsSocket socket = handed_off(sessions, GetParam());
  KtlsSocket peer = handed_off(sessions, other(GetParam()));
  const std::string there = marked(1, kBytes), back = marked(2, kBytes);
  // An object is used by one thread at a time: so the directions take turns in pieces that no buffer holds.
  std::thread echo([&] {
    std::string got;
    for (size_t at = 0; at < kBytes; at += 500'000) {
      got += receive_exactly(peer, 500'000);
      send_all(peer, back.substr(at, 500'000));
    }
    EXPECT_EQ(sha256(got), sha256(there));
  });
  std::string got;
  for (size_t at = 0; at < kBytes; at += 500'000) {
    EXPECT_TRUE(send_all(socket, there.substr(at, 500'000)));
    got += receive_exactly(socket, 500'000);
  }
  echo.join();
  EXPECT_EQ(sha256(got), sha256(back));
}

TEST_P(EachRole, TenMegabytesToAndFromOpenSsl) {
  Sessions sessions(probed_options());
  KtlsSocket socket = handed_off(sessions, GetParam());
  SSL* peer = sessions.ssl(other(GetParam()));
  const std::string text = marked(3, kLargeBytes);
  std::string got;
  std::thread reader([&] { got = ssl_read_exactly(peer, kLargeBytes); });
  EXPECT_TRUE(send_all(socket, text));
  reader.join();
  EXPECT_EQ(sha256(got), sha256(text));
  std::thread writer([&] { EXPECT_TRUE(ssl_write_all(peer, text)); });
  got = receive_exactly(socket, kLargeBytes);
  writer.join();
  EXPECT_EQ(sha256(got), sha256(text));
}

TEST_P(EachRole, WhatThePeerSentBeforeTheHandoffIsReadAfterIt) {
  Sessions sessions(probed_options());
  const std::string early = marked(4, 40000);
  ASSERT_TRUE(ssl_write_all(sessions.ssl(other(GetParam())), early));
  ASSERT_TRUE(wait_readable(sessions.fd(GetParam()).get(), std::chrono::seconds(10)));
  KtlsSocket socket = handed_off(sessions, GetParam());
  EXPECT_EQ(receive_exactly(socket, early.size()), early);
}

TEST(Tickets, AreDroppedBetweenData) {
  for (size_t piece : {3, 70000}) {
    SessionOptions options = probed_options();
    options.prepared[1] = false;
    options.context = [](SSL_CTX* ctx, Role role) {
      if (role == Role::server) SSL_CTX_set_num_tickets(ctx, 3);
    };
    Sessions sessions(options);
    KtlsSocket socket = handed_off(sessions, Role::client);
    SSL* server = sessions.ssl(Role::server);
    ASSERT_TRUE(ssl_write_all(server, marked(5, 300)));
    EXPECT_EQ(receive_exactly(socket, 300, piece), marked(5, 300));
    EXPECT_EQ(socket.counts().tickets_dropped, 3u);
    ASSERT_EQ(SSL_new_session_ticket(server), 1);
    ASSERT_TRUE(ssl_write_all(server, marked(6, 300)));
    EXPECT_EQ(receive_exactly(socket, 300, piece), marked(6, 300));
    EXPECT_EQ(socket.counts().tickets_dropped, 4u);
    ASSERT_TRUE(send_all(socket, "still"));
    EXPECT_EQ(ssl_read_exactly(server, 5), "still");
  }
}

// ---- the end ----

TEST_P(EachRole, CloseNotifyEndsAndTheOtherDirectionGoesOn) {
  Sessions sessions(probed_options());
  KtlsSocket socket = handed_off(sessions, GetParam());
  SSL* peer = sessions.ssl(other(GetParam()));
  ASSERT_TRUE(send_all(socket, "last words"));
  ASSERT_TRUE(shut_down(socket));
  EXPECT_EQ(ssl_read_exactly(peer, 10), "last words");
  EXPECT_EQ(ssl_end(peer), SSL_ERROR_ZERO_RETURN);
  auto refused = socket.send(std::span(reinterpret_cast<const uint8_t*>("x"), 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().reason, KtlsReason::sending_ended);
  ASSERT_TRUE(ssl_write_all(peer, marked(7, 30000)));
  EXPECT_EQ(receive_exactly(socket, 30000), marked(7, 30000));
  SSL_shutdown(peer);
  uint8_t byte;
  for (int again = 0; again < 2; again++) {
    auto end = socket.recv({&byte, 1});
    ASSERT_TRUE(end) << end.error().to_string();
    EXPECT_EQ(end->event, KtlsIo::Event::end);
  }
}

TEST_P(EachRole, ThePeersCloseNotifyLeavesOurDirectionOpen) {
  Sessions sessions(probed_options());
  KtlsSocket socket = handed_off(sessions, GetParam());
  KtlsSocket peer = handed_off(sessions, other(GetParam()));
  ASSERT_TRUE(shut_down(peer));
  uint8_t byte;
  EXPECT_EQ(socket.recv({&byte, 1})->event, KtlsIo::Event::end);
  ASSERT_TRUE(send_all(socket, marked(8, 100000)));
  ASSERT_TRUE(shut_down(socket));
  EXPECT_EQ(receive_exactly(peer, 100000), marked(8, 100000));
  EXPECT_EQ(peer.recv({&byte, 1})->event, KtlsIo::Event::end);
}

TEST_P(EachRole, AnEndWithoutCloseNotifyIsTruncation) {
  Sessions sessions(probed_options());
  KtlsSocket socket = handed_off(sessions, GetParam());
  ASSERT_TRUE(ssl_write_all(sessions.ssl(other(GetParam())), "first"));
  ::shutdown(sessions.fd(other(GetParam())).get(), SHUT_WR);
  EXPECT_EQ(receive_exactly(socket, 5), "first");
  EXPECT_EQ(receive_error(socket).reason, KtlsReason::truncated);
  EXPECT_EQ(receive_error(socket).reason, KtlsReason::truncated);
  EXPECT_TRUE(send_all(socket, "we may still answer"));
}

TEST_P(EachRole, DestroyingWithoutShutdownIsTruncationForThePeer) {
  Sessions sessions(probed_options());
  { KtlsSocket socket = handed_off(sessions, GetParam()); }
  EXPECT_NE(ssl_end(sessions.ssl(other(GetParam()))), SSL_ERROR_ZERO_RETURN);
}

// A non-blocking sender that fills every buffer and then ends: the kernel holds back part of a record then, and a FIN
// that did not wait would cut it off.
TEST_P(EachRole, ShutdownWithFullBuffersLosesNothing) {
  int waited = 0;
  for (int round = 0; round < 6; round++) {
    SessionOptions options = probed_options();
    Sessions sessions(options);
    set_option(sessions.fd(GetParam()).get(), SOL_SOCKET, SO_SNDBUF, 20000 + round * 4096);
    KtlsSocket socket = handed_off(sessions, GetParam());
    SSL* peer = sessions.ssl(other(GetParam()));
    set_nonblocking(socket.fd(), true);
    sessions.wire->pause(GetParam(), true);
    const std::string text = marked(9, 8'000'000);
    size_t sent = 0;
    for (int full = 0; full < 3;) {
      auto io = socket.send(
          {reinterpret_cast<const uint8_t*>(text.data()) + sent, std::min<size_t>(text.size() - sent, 60000)});
      ASSERT_TRUE(io) << io.error().to_string();
      sent += io->bytes;
      if (io->event == KtlsIo::Event::would_block) full++, usleep(1000);
    }
    ASSERT_LT(sent, text.size());
    auto first = socket.shutdown();
    ASSERT_TRUE(first);
    if (first->event == KtlsIo::Event::would_block) waited++;
    std::string got;
    int end = 0;
    std::thread reader([&] {
      got = ssl_read_exactly(peer, sent);
      end = ssl_end(peer);
    });
    sessions.wire->pause(GetParam(), false);
    EXPECT_TRUE(shut_down(socket));
    reader.join();
    EXPECT_EQ(sha256(got), sha256(text.substr(0, sent))) << got.size() << " of " << sent;
    EXPECT_EQ(end, SSL_ERROR_ZERO_RETURN);
  }
  EXPECT_GT(waited, 0);
}

TEST(NonBlocking, AnEmptySocketWouldBlock) {
  Sessions sessions(probed_options());
  KtlsSocket socket = handed_off(sessions, Role::client);
  set_nonblocking(socket.fd(), true);
  uint8_t byte;
  EXPECT_EQ(socket.recv({&byte, 1})->event, KtlsIo::Event::would_block);
  ASSERT_TRUE(ssl_write_all(sessions.ssl(Role::server), "now"));
  ASSERT_TRUE(wait_readable(socket.fd(), std::chrono::seconds(10)));
  EXPECT_EQ(receive_exactly(socket, 3), "now");
}

// ---- alerts and breaches of protocol ----

TEST_P(EachRole, AFatalAlertIsToldByItsNumber) {
  for (size_t piece : {1, 4096}) {
    Sessions sessions(probed_options());
    KtlsSocket socket = handed_off(sessions, GetParam());
    KtlsSocket peer = handed_off(sessions, other(GetParam()));
    send_record(peer, 21, std::string("\x01\x5a", 2));  // user_canceled says nothing
    send_record(peer, 21, std::string("\x02\x28", 2));
    const KtlsError error = receive_error(socket, piece);
    EXPECT_EQ(error.reason, KtlsReason::peer_alert);
    EXPECT_EQ(error.alert, 40);
    EXPECT_FALSE(send_all(socket, "x"));
  }
}

TEST_P(EachRole, AChangedBitIsBadRecordAndThePeerIsTold) {
  Sessions sessions(probed_options());
  KtlsSocket socket = handed_off(sessions, GetParam());
  SSL* peer = sessions.ssl(other(GetParam()));
  sessions.wire->corrupt_next(other(GetParam()));
  ASSERT_TRUE(ssl_write_all(peer, marked(10, 1000)));
  EXPECT_EQ(receive_error(socket).reason, KtlsReason::bad_record);
  EXPECT_EQ(ssl_received_alert(peer), SSL_AD_BAD_RECORD_MAC);
  EXPECT_FALSE(send_all(socket, "x"));
}

TEST_P(EachRole, UnexpectedMessagesBreakOff) {
  const std::string client_hello("\x01\0\0\x02zz", 6);
  const std::string certificate_request("\x0d\0\0\x03zzz", 7);
  const std::string half_a_ticket("\x04\0\0\x10zz", 6);
  const std::string key_update_and_more("\x18\0\0\x01\0\x04\0\0\x01z", 10);
  const std::string long_key_update("\x18\0\0\x02\0\0", 6);
  struct {
    int type;
    std::string body;
    bool then_data;
  } const kCases[] = {{22, client_hello, false},
                      {22, certificate_request, false},
                      {22, half_a_ticket, true},
                      {22, key_update_and_more, false},
                      {22, long_key_update, false},
                      {20, "\x01", false},
                      {21, "\x02", true},
                      {21, "\x01\x5az", false},
                      {99, "x", false}};
  for (const auto& one : kCases) {
    SCOPED_TRACE(testing::PrintToString(one.body));
    Sessions sessions(probed_options());
    KtlsSocket socket = handed_off(sessions, GetParam());
    KtlsSocket peer = handed_off(sessions, other(GetParam()));
    send_record(peer, one.type, one.body);
    if (one.then_data) send_record(peer, 23, "data");
    EXPECT_EQ(receive_error(socket).reason, KtlsReason::unexpected_message);
    const KtlsError told = receive_error(peer);
    EXPECT_EQ(told.reason, KtlsReason::peer_alert);
    EXPECT_TRUE(told.alert == 10 || told.alert == 50) << told.alert;
  }
}

TEST(Protocol, AServerTakesNoTicketsAndAClientNotForEver) {
  const std::string ticket("\x04\0\0\x02zz", 6);
  Sessions sessions(probed_options());
  KtlsSocket server = handed_off(sessions, Role::server);
  KtlsSocket client = handed_off(sessions, Role::client);
  send_record(client, 22, ticket);
  EXPECT_EQ(receive_error(server).reason, KtlsReason::unexpected_message);

  Sessions flooded(probed_options());
  KtlsSocket flooder = handed_off(flooded, Role::server);
  KtlsSocket victim = handed_off(flooded, Role::client);
  for (int i = 0; i < 520; i++) send_record(flooder, 22, ticket);
  EXPECT_EQ(receive_error(victim).reason, KtlsReason::too_many_messages);
  EXPECT_EQ(victim.counts().tickets_dropped, 512u);
}

TEST(Protocol, ATicketInPiecesIsOneTicket) {
  Sessions sessions(probed_options());
  KtlsSocket server = handed_off(sessions, Role::server);
  KtlsSocket client = handed_off(sessions, Role::client);
  const std::string body(5000, 't');
  const std::string ticket = std::string("\x04\0\x13\x88", 4) + body;
  send_record(server, 22, ticket.substr(0, 2));
  send_record(server, 22, ticket.substr(2, 3000));
  send_record(server, 22, ticket.substr(3002) + ticket);
  ASSERT_TRUE(send_all(server, "data"));
  EXPECT_EQ(receive_exactly(client, 4, 100), "data");
  EXPECT_EQ(client.counts().tickets_dropped, 2u);
}

// ---- KeyUpdate ----

void exchange(KtlsSocket& socket, SSL* peer, int seed) {
  const std::string there = marked(static_cast<uint64_t>(seed), 20000),
                    back = marked(static_cast<uint64_t>(seed) + 1, 20000);
  ASSERT_TRUE(send_all(socket, there));
  ASSERT_EQ(ssl_read_exactly(peer, there.size()), there);
  ASSERT_TRUE(ssl_write_all(peer, back));
  ASSERT_EQ(receive_exactly(socket, back.size()), back);
}

TEST_P(EachCase, ThePeersKeyUpdateIsFollowedOrEndsTheConnection) {
  for (int request : {SSL_KEY_UPDATE_NOT_REQUESTED, SSL_KEY_UPDATE_REQUESTED}) {
    Sessions sessions(probed_options(GetParam().suite));
    KtlsSocket socket = handed_off(sessions, GetParam().role);
    SSL* peer = sessions.ssl(other(GetParam().role));
    exchange(socket, peer, 10);
    ASSERT_EQ(SSL_key_update(peer, request), 1);
    ASSERT_TRUE(ssl_write_all(peer, "after"));
    if (!probed().settings.rekey) {
      EXPECT_EQ(receive_error(socket).reason, KtlsReason::rekey_unsupported);
      EXPECT_EQ(socket.counts().key_updates_received, 1u);
      EXPECT_EQ(ssl_received_alert(peer), SSL_AD_INTERNAL_ERROR);
      EXPECT_FALSE(send_all(socket, "x"));
      continue;
    }
    EXPECT_EQ(receive_exactly(socket, 5, 3), "after");
    exchange(socket, peer, 20);
    ASSERT_EQ(SSL_key_update(peer, request), 1);
    exchange(socket, peer, 30);
    exchange(socket, peer, 40);
    EXPECT_EQ(socket.counts().key_updates_received, 2u);
    EXPECT_EQ(socket.counts().key_updates_sent, request == SSL_KEY_UPDATE_REQUESTED ? 2u : 0u);
    ASSERT_TRUE(shut_down(socket));
    EXPECT_EQ(ssl_end(peer), SSL_ERROR_ZERO_RETURN);
  }
}

TEST_P(EachCase, OurKeyUpdatesAreFollowedByThePeer) {
  Sessions sessions(probed_options(GetParam().suite));
  KtlsSocket socket = handed_off(sessions, GetParam().role);
  SSL* peer = sessions.ssl(other(GetParam().role));
  exchange(socket, peer, 50);
  if (!probed().settings.rekey) {
    auto refused = socket.update_keys(true);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().reason, KtlsReason::rekey_unsupported);
    return exchange(socket, peer, 60);  // nothing has happened
  }
  for (bool ask : {false, true, true, false}) {
    ASSERT_TRUE(socket.update_keys(ask));
    EXPECT_EQ(socket.key_records(), 0u);
    exchange(socket, peer, 70);
  }
  EXPECT_EQ(socket.counts().key_updates_sent, 4u);
  EXPECT_EQ(socket.counts().key_updates_received, 2u);
}

TEST(KeyUpdate, ComesByItselfBeforeAKeyIsWornOut) {
  SessionOptions options = probed_options();
  options.settings.key_records_max = 10;
  Sessions sessions(options);
  KtlsSocket socket = handed_off(sessions, Role::client);
  for (int i = 0; i < 35; i++) {
    const std::string text = marked(static_cast<uint64_t>(i), 1000);
    if (!probed().settings.rekey && i == 10) {
      const auto refused = socket.send({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
      ASSERT_FALSE(refused.has_value());
      EXPECT_EQ(refused.error().reason, KtlsReason::key_used_up);
      EXPECT_EQ(socket.key_records(), 10u);
      sessions.torn = true;
      return;
    }
    ASSERT_TRUE(send_all(socket, text));
    ASSERT_EQ(ssl_read_exactly(sessions.ssl(Role::server), text.size()), text);
    EXPECT_LE(socket.key_records(), 10u);
  }
  EXPECT_EQ(socket.counts().key_updates_sent, 3u);
  ASSERT_TRUE(shut_down(socket));
  EXPECT_EQ(ssl_end(sessions.ssl(Role::server)), SSL_ERROR_ZERO_RETURN);
}

// The kernel is believed rather than the settings.
TEST(KeyUpdate, AKernelThatRefusesTheKeysEndsTheConnection) {
  if (probed().settings.rekey) return;
  SessionOptions options = probed_options();
  options.settings.rekey = true;
  Sessions sessions(options);
  KtlsSocket socket = handed_off(sessions, Role::client);
  ASSERT_EQ(SSL_key_update(sessions.ssl(Role::server), SSL_KEY_UPDATE_NOT_REQUESTED), 1);
  ASSERT_TRUE(ssl_write_all(sessions.ssl(Role::server), "after"));
  const KtlsError error = receive_error(socket);
  EXPECT_EQ(error.reason, KtlsReason::rekey_unsupported);
  EXPECT_EQ(error.code, EBUSY);
}

// ---- splice ----

TEST_P(EachRole, SpliceSendsWhatThePipeHolds) {
  Sessions sessions(probed_options());
  KtlsSocket socket = handed_off(sessions, GetParam());
  set_nonblocking(socket.fd(), true);
  const std::string text = marked(11, 3'000'000);
  std::string got;
  std::thread reader([&] { got = ssl_read_exactly(sessions.ssl(other(GetParam())), text.size()); });
  Pipe pipe;
  for (size_t at = 0, in_pipe = 0; at < text.size() || in_pipe > 0;) {
    const ssize_t n = write(pipe.writing.get(), text.data() + at, std::min<size_t>(text.size() - at, 10000));
    if (n > 0) at += static_cast<size_t>(n), in_pipe += static_cast<size_t>(n);
    auto io = socket.send_from_pipe(pipe.reading.get(), in_pipe);
    ASSERT_TRUE(io) << io.error().to_string();
    in_pipe -= io->bytes;
    if (io->event != KtlsIo::Event::would_block) continue;
    pollfd room{socket.fd(), POLLOUT, 0};
    poll(&room, 1, 1000);
  }
  reader.join();
  EXPECT_EQ(sha256(got), sha256(text)) << got.size();
  ASSERT_TRUE(shut_down(socket));
  EXPECT_EQ(ssl_end(sessions.ssl(other(GetParam()))), SSL_ERROR_ZERO_RETURN);
}

std::string receive_by_splice(KtlsSocket& socket, size_t bytes, KtlsIoResult& last) {
  Pipe pipe;
  std::string got;
  while (got.size() < bytes) {
    last = socket.recv_to_pipe(pipe.writing.get(), bytes - got.size());
    if (!last || last->event == KtlsIo::Event::end) break;
    if (last->event == KtlsIo::Event::would_block && !wait_readable(socket.fd(), std::chrono::seconds(10))) break;
    char buffer[70000];
    for (ssize_t n; (n = read(pipe.reading.get(), buffer, sizeof(buffer))) > 0;)
      got.append(buffer, static_cast<size_t>(n));
  }
  return got;
}

TEST(Splice, ReceivesPastTicketsToTheEnd) {
  SessionOptions options = probed_options();
  options.prepared[1] = false;
  Sessions sessions(options);
  KtlsSocket socket = handed_off(sessions, Role::client);
  SSL* server = sessions.ssl(Role::server);
  const std::string text = marked(12, 3'000'000);
  std::thread writer([&] {
    EXPECT_TRUE(ssl_write_all(server, text.substr(0, 1'000'000)));
    EXPECT_EQ(SSL_new_session_ticket(server), 1);
    EXPECT_TRUE(ssl_write_all(server, text.substr(1'000'000)));
    SSL_shutdown(server);
  });
  KtlsIoResult last = KtlsIo{};
  const std::string got = receive_by_splice(socket, text.size() + 1, last);
  writer.join();
  EXPECT_EQ(sha256(got), sha256(text)) << got.size();
  ASSERT_TRUE(last) << last.error().to_string();
  EXPECT_EQ(last->event, KtlsIo::Event::end);
  EXPECT_EQ(socket.counts().tickets_dropped, 3u);
}

TEST(Splice, TellsTruncationAlertsBadRecordsAndKeyUpdates) {
  KtlsIoResult last = KtlsIo{};
  {
    Sessions sessions(probed_options());
    KtlsSocket socket = handed_off(sessions, Role::client);
    ::shutdown(sessions.fd(Role::server).get(), SHUT_WR);
    EXPECT_EQ(receive_by_splice(socket, 1, last), "");
    EXPECT_EQ(last.error().reason, KtlsReason::truncated);
  }
  {
    Sessions sessions(probed_options());
    KtlsSocket socket = handed_off(sessions, Role::client), peer = handed_off(sessions, Role::server);
    send_record(peer, 21, std::string("\x02\x28", 2));
    EXPECT_EQ(receive_by_splice(socket, 1, last), "");
    EXPECT_EQ(last.error().reason, KtlsReason::peer_alert);
  }
  {
    Sessions sessions(probed_options());
    KtlsSocket socket = handed_off(sessions, Role::client);
    sessions.wire->corrupt_next(Role::server);
    ASSERT_TRUE(ssl_write_all(sessions.ssl(Role::server), "changed"));
    EXPECT_EQ(receive_by_splice(socket, 1, last), "");
    ASSERT_FALSE(last);
    EXPECT_EQ(last.error().reason, KtlsReason::bad_record) << last.error().to_string();
  }
  Sessions sessions(probed_options());
  KtlsSocket socket = handed_off(sessions, Role::client);
  ASSERT_EQ(SSL_key_update(sessions.ssl(Role::server), SSL_KEY_UPDATE_REQUESTED), 1);
  ASSERT_TRUE(ssl_write_all(sessions.ssl(Role::server), "after"));
  const std::string got = receive_by_splice(socket, 5, last);
  if (probed().settings.rekey) {
    EXPECT_EQ(got, "after");
    exchange(socket, sessions.ssl(Role::server), 80);
  } else {
    ASSERT_FALSE(last);
    EXPECT_EQ(last.error().reason, KtlsReason::rekey_unsupported);
  }
}

// ---- faults ----

// With the ULP really set and one kind of key refused: closed, and nothing of what the owner tries then is on the wire.
TEST_P(EachRole, NoPlaintextAfterAFailedHandoff) {
  for (Fault fault : {Fault::ulp, Fault::tx_keys, Fault::rx_keys}) {
    Sessions sessions(probed_options());
    const int number = sessions.fd(GetParam()).get();
    const std::string before = sessions.wire->seen(GetParam());
    {
      InjectedFault injected(fault, ENOMEM);
      ASSERT_FALSE(sessions.hand_off(GetParam()));
    }
    SSL* ssl = sessions.ssl(GetParam());
    if (fault == Fault::ulp) {  // a refusal: still in user space, and a second try works
      EXPECT_TRUE(sessions.fd(GetParam()));
      KtlsSocket socket = handed_off(sessions, GetParam());
      exchange(socket, sessions.ssl(other(GetParam())), 90);
      continue;
    }
    EXPECT_FALSE(sessions.fd(GetParam()));
    EXPECT_EQ(fcntl(number, F_GETFD), -1);
    EXPECT_LT(::send(number, kMarker, sizeof(kMarker), MSG_NOSIGNAL), 0);
    EXPECT_FALSE(ssl_write_all(ssl, marked(13, 100)));
    SSL_shutdown(ssl);
    EXPECT_NE(ssl_end(sessions.ssl(other(GetParam()))), SSL_ERROR_ZERO_RETURN);
    sessions.wire->stop();
    EXPECT_EQ(sessions.wire->seen(GetParam()), before) << "not one byte more";
  }
}

// The SSL that was handed off reaches the socket no more, whatever is done with it.
TEST_P(EachRole, TheSslIsCutOff) {
  Sessions sessions(probed_options());
  KtlsSocket socket = handed_off(sessions, GetParam());
  SSL* ssl = sessions.ssl(GetParam());
  EXPECT_FALSE(ssl_write_all(ssl, marked(14, 100)));
  EXPECT_FALSE(SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) == 1 && SSL_do_handshake(ssl) == 1);
  SSL_shutdown(ssl);
  sessions.ssls[static_cast<int>(GetParam())].reset();
  exchange(socket, sessions.ssl(other(GetParam())), 100);
}

}  // namespace

}  // namespace shunt::test
