// Why a peer's certificate was refused: one list, which makes the enumeration, the stable names, the texts and what
// OpenSSL tells the peer.
#pragma once

namespace shunt {

// X(enumerator, name, meaning, the error of X509_verify_cert() from which OpenSSL makes the alert)
#define PEER_REASONS(X)                                                                                            \
  X(no_certificate, "no-certificate", "the peer presented no certificate", X509_V_ERR_UNSPECIFIED)                 \
  X(malformed_certificate, "malformed-certificate", "the certificate has invalid extensions",                      \
    X509_V_ERR_CERT_REJECTED)                                                                                      \
  X(not_a_leaf, "not-a-leaf", "the certificate is that of a CA", X509_V_ERR_CERT_REJECTED)                         \
  X(wrong_key_usage, "wrong-key-usage", "the certificate is not for digital signatures of clients and servers",    \
    X509_V_ERR_CERT_REJECTED)                                                                                      \
  X(no_identity, "no-identity", "the certificate has no SPIFFE ID", X509_V_ERR_CERT_REJECTED)                      \
  X(several_identities, "several-identities", "the certificate has more than one URI", X509_V_ERR_CERT_REJECTED)   \
  X(malformed_identity, "malformed-identity", "the certificate's URI is not the SPIFFE ID of a workload",          \
    X509_V_ERR_CERT_REJECTED)                                                                                      \
  X(unknown_trust_domain, "unknown-trust-domain", "there is no bundle for the trust domain",                       \
    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY)                                                                  \
  X(wrong_ca, "wrong-ca", "no CA of the trust domain's bundle has signed the certificate",                         \
    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY)                                                                  \
  X(expired, "expired", "the certificate, or one above it, has expired", X509_V_ERR_CERT_HAS_EXPIRED)              \
  X(not_yet_valid, "not-yet-valid", "the certificate, or one above it, is not valid yet",                          \
    X509_V_ERR_CERT_NOT_YET_VALID)                                                                                 \
  X(certificate_revoked, "certificate-revoked", "a CA has revoked the certificate, or one above it",               \
    X509_V_ERR_CERT_REVOKED)                                                                                       \
  X(no_revocation_list, "no-revocation-list", "there is no current list of what the certificate's CA has revoked", \
    X509_V_ERR_UNABLE_TO_GET_CRL)                                                                                  \
  X(denied_identity, "denied-identity", "the identity is on the deny list", X509_V_ERR_CERT_REVOKED)               \
  X(bad_chain, "bad-chain", "the certificates between leaf and CA break a rule", X509_V_ERR_CERT_REJECTED)         \
  X(wrong_identity, "wrong-identity", "the peer is who it says, but not who is allowed here",                      \
    X509_V_ERR_APPLICATION_VERIFICATION)

enum class PeerReason {
#define PEER_REASON_ENUMERATOR(enumerator, name, meaning, verify_error) enumerator,
  PEER_REASONS(PEER_REASON_ENUMERATOR)
#undef PEER_REASON_ENUMERATOR
};

}  // namespace shunt
