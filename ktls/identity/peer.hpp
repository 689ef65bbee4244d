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
#include <ktls/identity/reasons.hpp>
#include <ktls/openssl.hpp>
#include <map>
#include <memory>
#include <optional>
#include <set>
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

// The CAs of trust domains. A CA vouches for the identities of its own domain only, and takes back what it has signed.
class TrustBundles {
 public:
  // The certificates of a PEM text, in addition to what is there. `file` is for the messages.
  Result<void> add(const std::string& trust_domain, const std::string& pem, const std::string& file);

  // The lists of revoked certificates of a PEM text. From then on the domain's leaves are taken only if a current list
  // of their CA does not name them; what is above them counts if there is a list of its CA.
  Result<void> add_revocations(const std::string& trust_domain, const std::string& pem, const std::string& file);

  // Nobody vouches for them any more.
  void deny(std::vector<SpiffeId> identities);

  enum class PeerRole { client, server };
  enum class Moment {
    handshake,   // what has expired, or is not valid yet, is refused
    connection,  // of a peer that was taken before: time alone refuses nobody
  };
  // `chain` (may be null): further certificates that the peer sent.
  Result<SpiffeId, PeerRefusal> verify(X509* leaf, STACK_OF(X509) * chain, PeerRole role,
                                       Moment moment = Moment::handshake) const;

 private:
  struct Domain {
    std::unique_ptr<X509_STORE, FreedBy<X509_STORE_free>> store{X509_STORE_new()};
    bool has_revocations = false;
  };
  std::map<std::string, Domain, std::less<>> domains_;
  std::set<std::string, std::less<>> denied_;
};

// What a peer presented in a handshake, to be judged again when bundles or lists change.
class PresentedPeer {
 public:
  explicit PresentedPeer(SSL* ssl);  // after its handshake
  Result<SpiffeId, PeerRefusal> verify(const TrustBundles& trust) const;
  // Equal for peers that presented the same, for whom verify() says the same. Empty: OpenSSL has failed.
  std::string fingerprint() const;

 private:
  Certificate leaf_;
  Certificates chain_;
  TrustBundles::PeerRole role_;
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
