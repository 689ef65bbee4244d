#include <openssl/pem.h>

#include <algorithm>
#include <ktls/identity/peer.hpp>
#include <ktls/identity/pem.hpp>

namespace shunt {
namespace {

constexpr int kChainDepthMax = 8;
constexpr int kSecurityLevel = 2;  // 112 bits: RSA from 2048, no SHA-1

struct ReasonText {
  const char* name;
  const char* meaning;
  int verify_error;
};

const ReasonText& text_of(PeerReason reason) {
  static constexpr ReasonText kTexts[] = {
#define PEER_REASON_TEXT(enumerator, name, meaning, verify_error) {name, meaning, verify_error},
      PEER_REASONS(PEER_REASON_TEXT)
#undef PEER_REASON_TEXT
  };
  return kTexts[static_cast<int>(reason)];
}

BasicUnexpected<PeerRefusal> refused(PeerReason reason, std::string detail = {}) {
  return unexpected(PeerRefusal{reason, std::move(detail)});
}

std::optional<PeerRefusal> check_usage(X509* leaf) {
  const uint32_t flags = X509_get_extension_flags(leaf);  // parses the extensions
  if (flags & EXFLAG_INVALID) return PeerRefusal{PeerReason::malformed_certificate, {}};
  if (flags & EXFLAG_CA) return PeerRefusal{PeerReason::not_a_leaf, {}};
  const uint32_t usage = X509_get_key_usage(leaf);
  const bool stated = (flags & EXFLAG_KUSAGE) != 0;
  if (!stated || !(usage & KU_DIGITAL_SIGNATURE) || (usage & (KU_KEY_CERT_SIGN | KU_CRL_SIGN)))
    return PeerRefusal{PeerReason::wrong_key_usage, "key usage"};
  const uint32_t both = XKU_SSL_SERVER | XKU_SSL_CLIENT;
  if ((flags & EXFLAG_XKUSAGE) && (X509_get_extended_key_usage(leaf) & both) != both)
    return PeerRefusal{PeerReason::wrong_key_usage, "extended key usage"};
  return {};
}

PeerReason reason_of(int verify_error) {
  switch (verify_error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return PeerReason::expired;
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return PeerReason::not_yet_valid;
    // A CA with the right name and another key fails the last two.
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return PeerReason::wrong_ca;
    case X509_V_ERR_CERT_REVOKED:
      return PeerReason::certificate_revoked;
    case X509_V_ERR_UNABLE_TO_GET_CRL:
    case X509_V_ERR_CRL_HAS_EXPIRED:
    case X509_V_ERR_CRL_NOT_YET_VALID:
      return PeerReason::no_revocation_list;
    default:
      return PeerReason::bad_chain;
  }
}

// A CA need not say what it has revoked of other CAs; and one that is trusted by itself, in the middle of its chain,
// has nobody above it here who could say it with a signature.
int pass_over_missing_lists(int ok, X509_STORE_CTX* context) {
  const int error = X509_STORE_CTX_get_error(context), depth = X509_STORE_CTX_get_error_depth(context);
  const bool is_anchor = depth + 1 == sk_X509_num(X509_STORE_CTX_get0_chain(context));
  const bool unsaid =
      error == X509_V_ERR_UNABLE_TO_GET_CRL ||
      (is_anchor && (error == X509_V_ERR_UNABLE_TO_GET_CRL_ISSUER || error == X509_V_ERR_CRL_SIGNATURE_FAILURE));
  if (ok == 1 || depth == 0 || !unsaid) return ok;
  X509_STORE_CTX_set_error(context, X509_V_OK);
  return 1;
}

int check_index() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

}  // namespace

const char* PeerRefusal::name() const { return text_of(reason).name; }

std::string PeerRefusal::to_string() const {
  return std::string(name()) + ": " + text_of(reason).meaning + (detail.empty() ? "" : ": " + detail);
}

Result<SpiffeId, PeerRefusal> identity_of(X509* leaf) {
  if (const auto refusal = check_usage(leaf)) return unexpected(*refusal);
  const auto uris = uris_of(leaf);
  if (!uris) return refused(PeerReason::malformed_certificate);
  if (uris->empty()) return refused(PeerReason::no_identity);
  if (uris->size() > 1) return refused(PeerReason::several_identities);
  auto id = parse_workload_id(uris->front());
  if (!id) return refused(PeerReason::malformed_identity, id.error().message);
  return std::move(*id);
}

Result<void> TrustBundles::add(const std::string& trust_domain, const std::string& pem, const std::string& file) {
  const auto certificates = certificates_of_pem(pem, file);
  if (!certificates) return unexpected(certificates.error());
  Domain& domain = domains_[trust_domain];
  for (int i = 0; i < sk_X509_num(certificates->get()); i++) {
    X509* certificate = sk_X509_value(certificates->get(), i);
    if (X509_check_ca(certificate) != 1)
      return unexpected(Error{EINVAL, file + ": certificate " + std::to_string(i + 1) + " is not that of a CA",
                              "a bundle holds the certificates of CAs alone"});
    if (!domain.store || X509_STORE_add_cert(domain.store.get(), certificate) != 1)
      return unexpected(openssl_error(file));
  }
  return {};
}

Result<void> TrustBundles::add_revocations(const std::string& trust_domain, const std::string& pem,
                                           const std::string& file) {
  const auto lists = revocation_lists_of_pem(pem, file);
  if (!lists) return unexpected(lists.error());
  Domain& domain = domains_[trust_domain];
  for (int i = 0; i < sk_X509_CRL_num(lists->get()); i++) {
    if (!domain.store || X509_STORE_add_crl(domain.store.get(), sk_X509_CRL_value(lists->get(), i)) != 1)
      return unexpected(openssl_error(file));
  }
  domain.has_revocations = true;
  return {};
}

void TrustBundles::deny(std::vector<SpiffeId> identities) {
  for (const SpiffeId& id : identities) denied_.insert(id.text());
}

Result<SpiffeId, PeerRefusal> TrustBundles::verify(X509* leaf, STACK_OF(X509) * chain, PeerRole role,
                                                   Moment moment) const {
  auto id = identity_of(leaf);
  if (!id) return id;
  const auto domain = domains_.find(id->trust_domain());
  if (domain == domains_.end()) return refused(PeerReason::unknown_trust_domain, id->text());
  if (denied_.contains(id->text())) return refused(PeerReason::denied_identity, id->text());
  const std::unique_ptr<X509_STORE_CTX, FreedBy<X509_STORE_CTX_free>> context(X509_STORE_CTX_new());
  if (!context || X509_STORE_CTX_init(context.get(), domain->second.store.get(), leaf, chain) != 1)
    return refused(PeerReason::bad_chain, openssl_error("OpenSSL").message);
  X509_VERIFY_PARAM* rules = X509_STORE_CTX_get0_param(context.get());
  // An intermediate CA in the bundle is trusted like a root: it is there on purpose.
  X509_VERIFY_PARAM_set_flags(rules, X509_V_FLAG_PARTIAL_CHAIN);
  X509_VERIFY_PARAM_set_purpose(rules, role == PeerRole::client ? X509_PURPOSE_SSL_CLIENT : X509_PURPOSE_SSL_SERVER);
  X509_VERIFY_PARAM_set_depth(rules, kChainDepthMax);
  X509_VERIFY_PARAM_set_auth_level(rules, kSecurityLevel);
  if (moment == Moment::connection) X509_VERIFY_PARAM_set_flags(rules, X509_V_FLAG_NO_CHECK_TIME);
  if (domain->second.has_revocations) {
    X509_VERIFY_PARAM_set_flags(rules, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    X509_STORE_CTX_set_verify_cb(context.get(), pass_over_missing_lists);
  }
  if (X509_verify_cert(context.get()) == 1) return id;
  const int error = X509_STORE_CTX_get_error(context.get());
  ERR_clear_error();
  return refused(reason_of(error), id->text() + ", " + X509_verify_cert_error_string(error));
}

// ---- after a handshake ----

PresentedPeer::PresentedPeer(SSL* ssl)
    : leaf_(SSL_get1_peer_certificate(ssl)),
      chain_(X509_chain_up_ref(SSL_get_peer_cert_chain(ssl))),
      role_(SSL_is_server(ssl) ? TrustBundles::PeerRole::client : TrustBundles::PeerRole::server) {}

Result<SpiffeId, PeerRefusal> PresentedPeer::verify(const TrustBundles& trust) const {
  return trust.verify(leaf_.get(), chain_.get(), role_, TrustBundles::Moment::connection);
}

std::string PresentedPeer::fingerprint() const {
  std::string all(1, role_ == TrustBundles::PeerRole::client ? 'c' : 's');
  for (int i = -1; i < sk_X509_num(chain_.get()); i++) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int bytes = 0;
    if (X509_digest(i < 0 ? leaf_.get() : sk_X509_value(chain_.get(), i), EVP_sha256(), digest, &bytes) != 1) return {};
    all.append(reinterpret_cast<const char*>(digest), bytes);
  }
  return all;
}

// ---- at a handshake ----

struct PeerCallback {
  // In the place of X509_verify_cert().
  static int verify(X509_STORE_CTX* context, void*) {
    const auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto* check = static_cast<PeerCheck*>(SSL_get_ex_data(ssl, check_index()));
    X509* leaf = X509_STORE_CTX_get0_cert(context);
    if (!check || !leaf) {
      X509_STORE_CTX_set_error(context, X509_V_ERR_UNSPECIFIED);
      return 0;
    }
    const auto role = SSL_is_server(ssl) ? TrustBundles::PeerRole::client : TrustBundles::PeerRole::server;
    const auto refusal = check->judge(leaf, X509_STORE_CTX_get0_untrusted(context), role);
    X509_STORE_CTX_set_error(context, refusal ? text_of(refusal->reason).verify_error : X509_V_OK);
    return refusal ? 0 : 1;
  }
};

void prepare_peer_check(SSL_CTX* ctx) {
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(ctx, PeerCallback::verify, nullptr);
}

void PeerCheck::watch(SSL* ssl) { SSL_set_ex_data(ssl, check_index(), this); }

std::optional<PeerRefusal> PeerCheck::judge(X509* leaf, STACK_OF(X509) * chain, TrustBundles::PeerRole role) {
  auto id = trust_->verify(leaf, chain, role);
  if (!id) {
    refusal_ = id.error();
  } else if (!expected_.empty() && std::find(expected_.begin(), expected_.end(), *id) == expected_.end()) {
    refusal_ = PeerRefusal{PeerReason::wrong_identity, id->text()};
  } else {
    identity_ = std::move(*id);
  }
  return refusal_;
}

std::optional<PeerRefusal> PeerCheck::refusal(unsigned long openssl_code) const {
  if (refusal_ || identity_) return refusal_;
  if (ERR_GET_REASON(openssl_code) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
    return PeerRefusal{PeerReason::no_certificate, {}};
  return {};
}

}  // namespace shunt
