#include "ktls/forge.hpp"

#include <ktls/identity/pem.hpp>

#include "support/sandbox.hpp"

namespace shunt::test {

namespace {

constexpr long kDaySeconds = 86400;

void extend(X509* certificate, X509* issuer, int nid, const std::string& value) {
  if (value.empty()) return;
  X509V3_CTX ctx;
  X509V3_set_ctx_nodb(&ctx);
  X509V3_set_ctx(&ctx, issuer, certificate, nullptr, nullptr, 0);
  std::unique_ptr<X509_EXTENSION, FreedBy<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &ctx, nid, value.c_str()));
  require(extension && X509_add_ext(certificate, extension.get(), -1) == 1, "add a certificate extension");
}

}  // namespace

ForgePlan ca_plan(const std::string& name) {
  return {name, "URI:spiffe://mesh.example", "critical,CA:TRUE", "critical,keyCertSign,cRLSign", "", -1, 30};
}

Forged forge(const ForgePlan& plan, const Forged* issuer) {
  static long serial = 0;
  Forged forged{Certificate(X509_new()), PrivateKey(EVP_EC_gen("P-256"))};
  X509* certificate = forged.certificate.get();
  require(certificate && forged.key, "make a certificate");
  X509* above = issuer ? issuer->certificate.get() : certificate;
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), plan.starts_days * kDaySeconds);
  X509_gmtime_adj(X509_getm_notAfter(certificate), plan.ends_days * kDaySeconds);
  X509_set_pubkey(certificate, forged.key.get());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(plan.name.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate, X509_get_subject_name(above));
  extend(certificate, above, NID_basic_constraints, plan.basic_constraints);
  extend(certificate, above, NID_key_usage, plan.key_usage);
  extend(certificate, above, NID_ext_key_usage, plan.extended_key_usage);
  extend(certificate, above, NID_subject_alt_name, plan.alternative_names);
  require(X509_sign(certificate, issuer ? issuer->key.get() : forged.key.get(), EVP_sha256()) > 0, "sign");
  return forged;
}

std::string pem_of(const Forged& forged) {
  auto pem = pem_of_certificate(forged.certificate.get());
  require(pem.has_value(), "write a certificate");
  return std::string(bytes_of(pem->get()));
}

}  // namespace shunt::test
