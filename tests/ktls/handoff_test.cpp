// Refusals and failures of the handoff, on any kernel.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <sys/socket.h>

#include <ktls/ktls.hpp>
#include <ktls/probe.hpp>

#include "ktls/faults.hpp"
#include "ktls/sessions.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

namespace {

// After a refusal the session must be as good as before.
void expect_usable(Sessions& sessions) {
  for (Role role : {Role::client, Role::server}) {
    const std::string text = marked(static_cast<uint64_t>(role), 5000);
    ASSERT_TRUE(ssl_write_all(sessions.ssl(role), text));
    EXPECT_EQ(ssl_read_exactly(sessions.ssl(other(role)), text.size()), text);
  }
}

// hand_off() refuses with `reason`, and nothing is lost.
void expect_refused(Sessions& sessions, Role role, KtlsReason reason) {
  const int number = sessions.fd(role).get();
  auto socket = sessions.hand_off(role);
  ASSERT_FALSE(socket);
  EXPECT_STREQ(socket.error().name(), ktls_reason_name(reason)) << socket.error().to_string();
  EXPECT_EQ(sessions.fd(role).get(), number);
  EXPECT_NE(fcntl(number, F_GETFD), -1);
}

class BothRoles : public testing::TestWithParam<Role> {};
INSTANTIATE_TEST_SUITE_P(Roles, BothRoles, testing::Values(Role::client, Role::server),
                         [](const auto& info) { return info.param == Role::client ? "Client" : "Server"; });

TEST(Prepare, RefusesAContextWithoutCiphersOrWithAForeignKeylog) {
  SslContext ctx(SSL_CTX_new(TLS_client_method()));
  EXPECT_EQ(ktls_prepare(ctx.get(), {}).error().reason, KtlsReason::no_ciphers);
  EXPECT_EQ(ktls_prepare(ctx.get(), {8, false, 1}).error().reason, KtlsReason::no_ciphers);
  SSL_CTX_set_keylog_callback(ctx.get(), [](const SSL*, const char*) {});
  EXPECT_EQ(ktls_prepare(ctx.get(), {kKtlsAes128Gcm, false, 1}).error().reason, KtlsReason::keylog_taken);
}

TEST(Prepare, OffersOnlyTheGivenCiphersAndTls13) {
  SslContext ctx(SSL_CTX_new(TLS_client_method()));
  ASSERT_TRUE(ktls_prepare(ctx.get(), {kKtlsAes256Gcm, false, 1}));
  ASSERT_TRUE(ktls_prepare(ctx.get(), {kKtlsAes256Gcm, false, 1})) << "twice is allowed";
  EXPECT_EQ(SSL_CTX_get_min_proto_version(ctx.get()), TLS1_3_VERSION);
  SslSession ssl(SSL_new(ctx.get()));
  STACK_OF(SSL_CIPHER)* ciphers = SSL_get1_supported_ciphers(ssl.get());
  ASSERT_EQ(sk_SSL_CIPHER_num(ciphers), 1);
  EXPECT_STREQ(SSL_CIPHER_get_name(sk_SSL_CIPHER_value(ciphers, 0)), "TLS_AES_256_GCM_SHA384");
  sk_SSL_CIPHER_free(ciphers);
}

TEST(Prepare, RefusesASessionOfAnUnpreparedContext) {
  SslContext ctx(SSL_CTX_new(TLS_client_method()));
  SslSession ssl(SSL_new(ctx.get()));
  EXPECT_EQ(ktls_prepare(ssl.get()).error().reason, KtlsReason::not_prepared);
}

TEST_P(BothRoles, RefusesWhatWasNotPrepared) {
  SessionOptions options;
  options.prepared[static_cast<int>(GetParam())] = false;
  options.context = [](SSL_CTX* ctx, Role) { SSL_CTX_set_num_tickets(ctx, 0); };
  Sessions sessions(options);
  expect_refused(sessions, GetParam(), KtlsReason::not_prepared);
  expect_usable(sessions);
}

TEST_P(BothRoles, RefusesAfterAWrite) {
  Sessions sessions;
  ASSERT_TRUE(ssl_write_all(sessions.ssl(GetParam()), "x"));
  expect_refused(sessions, GetParam(), KtlsReason::records_exchanged);
  EXPECT_EQ(ssl_read_exactly(sessions.ssl(other(GetParam())), 1), "x");
  expect_refused(sessions, other(GetParam()), KtlsReason::records_exchanged);
  expect_usable(sessions);
}

// OpenSSL has taken five bytes out of the socket; SSL_has_pending() says no.
TEST_P(BothRoles, RefusesAfterAHeaderWithoutItsBody) {
  Sessions sessions;
  SSL* ssl = sessions.ssl(GetParam());
  const int fd = sessions.fd(GetParam()).get();
  sessions.wire->pause(other(GetParam()), true);
  ASSERT_TRUE(ssl_write_all(sessions.ssl(other(GetParam())), "hidden"));
  // Only the header of that record, by a BIO that gives no more.
  std::string record(5, '\0');
  record = "\x17\x03\x03";
  record += std::string("\0\x17", 2);
  BIO* memory = BIO_new_mem_buf(record.data(), 5);
  BIO_set_mem_eof_return(memory, -1);
  BIO* plain = SSL_get_rbio(ssl);
  BIO_up_ref(plain);
  SSL_set0_rbio(ssl, memory);
  char byte;
  EXPECT_LT(SSL_read(ssl, &byte, 1), 1);
  EXPECT_EQ(SSL_has_pending(ssl), 0) << "the trap that this test is for";
  SSL_set0_rbio(ssl, plain);
  EXPECT_EQ(SSL_get_fd(ssl), fd);
  expect_refused(sessions, GetParam(), KtlsReason::records_exchanged);
}

TEST_P(BothRoles, RefusesReadAhead) {
  SessionOptions options;
  options.session = [](SSL* ssl, Role) { SSL_set_read_ahead(ssl, 1); };
  Sessions sessions(options);
  expect_refused(sessions, GetParam(), KtlsReason::read_ahead);
  expect_usable(sessions);
}

TEST(HandOff, RefusesAServerThatSentTickets) {
  SessionOptions options;
  options.context = [](SSL_CTX* ctx, Role) {
    SSL_CTX_clear_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(ctx, 2);
  };
  Sessions sessions(options);
  expect_refused(sessions, Role::server, KtlsReason::records_exchanged);
  expect_usable(sessions);
}

TEST_P(BothRoles, RefusesACipherThatWasNotProbed) {
  SessionOptions options;
  options.settings.ciphers = kKtlsAes128Gcm;
  options.ciphersuites = "TLS_AES_256_GCM_SHA384";
  Sessions sessions(options);
  expect_refused(sessions, GetParam(), KtlsReason::cipher_unsupported);
  expect_usable(sessions);
}

TEST_P(BothRoles, RefusesTls12) {
  SessionOptions options;
  options.context = [](SSL_CTX* ctx, Role) {
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
  };
  Sessions sessions(options);
  expect_refused(sessions, GetParam(), KtlsReason::wrong_version);
  expect_usable(sessions);
}

TEST_P(BothRoles, RefusesANegotiatedFragmentLength) {
  SessionOptions options;
  options.context = [](SSL_CTX* ctx, Role) {
    SSL_CTX_set_tlsext_max_fragment_length(ctx, TLSEXT_max_fragment_length_1024);
  };
  Sessions sessions(options);
  expect_refused(sessions, GetParam(), KtlsReason::fragment_length);
  expect_usable(sessions);
}

TEST_P(BothRoles, RefusesWithoutTheSecrets) {
  SessionOptions options;
  options.context = [](SSL_CTX* ctx, Role) { SSL_CTX_set_keylog_callback(ctx, nullptr); };
  Sessions sessions(options);
  expect_refused(sessions, GetParam(), KtlsReason::no_secrets);
  expect_usable(sessions);
}

TEST_P(BothRoles, RefusesAnotherDescriptor) {
  Sessions sessions;
  UniqueFd copy(dup(sessions.fd(GetParam()).get()));
  auto socket = hand_off(sessions.ssl(GetParam()), copy);
  ASSERT_FALSE(socket);
  EXPECT_EQ(socket.error().reason, KtlsReason::wrong_descriptor);
  UniqueFd none;
  EXPECT_EQ(hand_off(sessions.ssl(GetParam()), none).error().reason, KtlsReason::wrong_descriptor);
  EXPECT_TRUE(copy);
  expect_usable(sessions);
}

TEST_P(BothRoles, RefusesABufferingBio) {
  Sessions sessions;
  SSL* ssl = sessions.ssl(GetParam());
  BIO* plain = SSL_get_rbio(ssl);
  BIO_up_ref(plain);
  SSL_set0_rbio(ssl, BIO_push(BIO_new(BIO_f_buffer()), plain));
  expect_refused(sessions, GetParam(), KtlsReason::foreign_bio);
  expect_usable(sessions);
}

TEST(HandOff, RefusesBeforeTheHandshakeAndWhileClosing) {
  SslContext ctx(SSL_CTX_new(TLS_client_method()));
  ASSERT_TRUE(ktls_prepare(ctx.get(), {kKtlsAes128Gcm, false, 1}));
  SslSession ssl(SSL_new(ctx.get()));
  ASSERT_TRUE(ktls_prepare(ssl.get()));
  Connection connection = connect_pair();
  SSL_set_fd(ssl.get(), connection.client.get());
  EXPECT_EQ(hand_off(ssl.get(), connection.client).error().reason, KtlsReason::handshake_unfinished);
  EXPECT_EQ(ktls_prepare(ssl.get()).has_value(), true);

  Sessions sessions;
  SSL_set_shutdown(sessions.ssl(Role::client), SSL_RECEIVED_SHUTDOWN);
  expect_refused(sessions, Role::client, KtlsReason::closing);
}

// The errors of TCP_ULP as the kernel makes them, each before the point of no return.
TEST_P(BothRoles, AKernelWithoutTheUlpRefusesAndTheSessionGoesOn) {
  struct {
    int code;
    KtlsReason reason;
  } const kCases[] = {{ENOENT, KtlsReason::no_ulp},
                      {ENOTCONN, KtlsReason::not_established},
                      {EPERM, KtlsReason::ulp_refused},
                      {EEXIST, KtlsReason::ulp_refused}};
  Sessions sessions;
  for (const auto& one : kCases) {
    InjectedFault fault(Fault::ulp, one.code);
    expect_refused(sessions, GetParam(), one.reason);
  }
  expect_usable(sessions);
}

// Whatever this kernel is: either the handoff works, or it refuses by name and the session goes on.
TEST_P(BothRoles, ThisKernelTakesTheSessionOrRefusesItByName) {
  const KtlsProbeReport probe = ktls_probe();
  SessionOptions options;
  options.settings.ciphers = probe.usable ? probe.settings.ciphers : uint32_t{kKtlsAes128Gcm};
  Sessions sessions(options);
  if (!probe.usable) {
    ASSERT_EQ(probe.items.back().verdict, ProbeVerdict::fatal);
    EXPECT_NE(probe.items.back().remedy, "");
    expect_refused(sessions, GetParam(), KtlsReason::no_ulp);
    return expect_usable(sessions);
  }
  auto socket = sessions.hand_off(GetParam());
  ASSERT_TRUE(socket) << socket.error().to_string();
  ASSERT_TRUE(send_all(*socket, marked(1, 1000)));
  EXPECT_EQ(ssl_read_exactly(sessions.ssl(other(GetParam())), 1000), marked(1, 1000));
}

// The keys are refused after the ULP was taken: closed, and the SSL cannot reach whatever gets that number next.
TEST_P(BothRoles, RefusedKeysCloseTheSocket) {
  for (Fault fault : {Fault::tx_keys, Fault::rx_keys}) {
    Sessions sessions;
    const int number = sessions.fd(GetParam()).get();
    {
      InjectedFault injected(fault, ENOMEM, true);
      auto socket = sessions.hand_off(GetParam());
      ASSERT_FALSE(socket);
      EXPECT_EQ(socket.error().reason,
                fault == Fault::tx_keys ? KtlsReason::tx_keys_refused : KtlsReason::rx_keys_refused);
      EXPECT_EQ(socket.error().code, ENOMEM);
    }
    EXPECT_FALSE(sessions.fd(GetParam()));
    EXPECT_EQ(fcntl(number, F_GETFD), -1);
    EXPECT_FALSE(ssl_write_all(sessions.ssl(GetParam()), marked(2, 100)));
    char byte;
    EXPECT_LT(SSL_read(sessions.ssl(GetParam()), &byte, 1), 0);
    EXPECT_NE(SSL_shutdown(sessions.ssl(GetParam())), -2);
    // The peer sees the end, and no byte before it.
    EXPECT_EQ(ssl_read_exactly(sessions.ssl(other(GetParam())), 1), "");
  }
}

// Each allocation of OpenSSL in the handoff fails once: all are before the point of no return. Of our own there are
// none.
TEST_P(BothRoles, FailedAllocationsRefuseAndTheSessionGoesOn) {
  Sessions sessions;
  size_t refused = 0;
  const KtlsProbeReport probe = ktls_probe();
  for (size_t number = 1;; number++) {
    InjectedFault fault(Fault::ulp, ENOENT);
    const size_t news = new_count();
    fail_allocation(number);
    auto socket = sessions.hand_off(GetParam());
    const size_t made = fail_allocation(0);
    ASSERT_FALSE(socket);
    EXPECT_EQ(new_count(), news);
    if (socket.error().reason == KtlsReason::no_ulp && made < number) break;
    if (socket.error().reason == KtlsReason::derivation_failed) refused++;
    ASSERT_LT(number, 1000u);
  }
  EXPECT_GT(refused, 0u);
  expect_usable(sessions);
}

}  // namespace

}  // namespace shunt::test
