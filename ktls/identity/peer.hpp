// Who is at the other end of a TLS connection: the SPIFFE ID of its certificate (X.509-SVID), if the bundle of that
// ID's trust domain vouches for it.
//
//   prepare_peer_check(ctx);                       // once a context
//   PeerCheck check(trust, {*expected});           // must outlive the SSL
//   check.watch(ssl);                              // before the handshake
//   ... SSL_accept(ssl) or SSL_connect(ssl) ...
//   check.identity() or check.refusal()
#pragma once

#include <base/spiffe_id.hpp>
#include <ctime>
#include <ktls/identity/reasons.hpp>
#include <ktls/openssl.hpp>
#include <map>
#include <memory>
#include <optional>
#include <vector>

namespace shunt {

struct PeerRefusal {
  PeerReason reason{};
  std::string detail;  // what of the certificate it was; may be empty

  const char* name() const;  // stable, kebab-case: "wrong-ca"
  std::string to_string() const;
};

// The SPIFFE ID of a leaf certificate, if it keeps the rules of an X.509-SVID. Nobody has vouched for it yet.
Result<SpiffeId, PeerRefusal> identity_of(X509* leaf);

// The CAs of trust domains. A CA vouches for the identities of its own domain only.
class TrustBundles {
 public:
  // The certificates of a PEM text, in addition to what is there. `file` is for the messages.
  Result<void> add(const std::string& trust_domain, const std::string& pem, const std::string& file);

  enum class PeerRole { client, server };
  // `chain` (may be null): further certificates that the peer sent. Throughout `at`, if it is given; else now.
  Result<SpiffeId, PeerRefusal> verify(X509* leaf, STACK_OF(X509) * chain, PeerRole role,
                                       std::optional<time_t> at = {}) const;

 private:
  std::map<std::string, std::unique_ptr<X509_STORE, FreedBy<X509_STORE_free>>, std::less<>> stores_;
};

// What a peer presented in a handshake, to be judged again when bundles change: by them, as of the time of the
// handshake.
class PresentedPeer {
 public:
  explicit PresentedPeer(SSL* ssl);  // after its handshake
  Result<SpiffeId, PeerRefusal> verify(const TrustBundles& trust) const;

 private:
  Certificate leaf_;
  Certificates chain_;
  TrustBundles::PeerRole role_;
  time_t at_;
};

// Peers must present a certificate, and each SSL a PeerCheck.
void prepare_peer_check(SSL_CTX* ctx);

class PeerCheck {
 public:
  // Without `expected`, anybody whom the bundles vouch for.
  explicit PeerCheck(std::shared_ptr<const TrustBundles> trust, std::vector<SpiffeId> expected = {})
      : trust_(std::move(trust)), expected_(std::move(expected)) {}
  PeerCheck(const PeerCheck&) = delete;
  PeerCheck& operator=(const PeerCheck&) = delete;

  void watch(SSL* ssl);
  // Before the peer's certificate comes: a server learns from the SNI who may come.
  void expect(std::vector<SpiffeId> expected) { expected_ = std::move(expected); }

  const std::optional<SpiffeId>& identity() const { return identity_; }
  // After a handshake that failed, with the error that ERR_peek_error() gave; nothing: it was not the certificate.
  std::optional<PeerRefusal> refusal(unsigned long openssl_code) const;

 private:
  friend struct PeerCallback;
  std::optional<PeerRefusal> judge(X509* leaf, STACK_OF(X509) * chain, TrustBundles::PeerRole role);

  std::shared_ptr<const TrustBundles> trust_;
  std::vector<SpiffeId> expected_;
  std::optional<SpiffeId> identity_;
  std::optional<PeerRefusal> refusal_;
};

}  // namespace shunt
