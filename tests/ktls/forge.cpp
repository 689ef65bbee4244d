#include "ktls/forge.hpp"

#include <fmt/format.h>
#include <openssl/pem.h>

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

std::string serial_of(const Forged& forged) {
  return fmt::format("{:02X}", ASN1_INTEGER_get(X509_get0_serialNumber(forged.certificate.get())));
}

std::string revocation_list(const Forged& ca, const std::vector<const Forged*>& revoked, long starts_days,
                            long ends_days) {
  const std::unique_ptr<X509_CRL, FreedBy<X509_CRL_free>> list(X509_CRL_new());
  const std::unique_ptr<ASN1_TIME, FreedBy<ASN1_TIME_free>> time(X509_gmtime_adj(nullptr, starts_days * kDaySeconds));
  require(list && time, "make a list of revoked certificates");
  X509_CRL_set_version(list.get(), X509_CRL_VERSION_2);
  X509_CRL_set_issuer_name(list.get(), X509_get_subject_name(ca.certificate.get()));
  X509_CRL_set1_lastUpdate(list.get(), time.get());
  for (const Forged* forged : revoked) {
    X509_REVOKED* entry = X509_REVOKED_new();
    X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(forged->certificate.get()));
    X509_REVOKED_set_revocationDate(entry, time.get());
    X509_CRL_add0_revoked(list.get(), entry);
  }
  X509_gmtime_adj(time.get(), ends_days * kDaySeconds);
  X509_CRL_set1_nextUpdate(list.get(), time.get());
  X509_CRL_sort(list.get());
  require(X509_CRL_sign(list.get(), ca.key.get(), EVP_sha256()) > 0, "sign a list");
  const Bio bio(BIO_new(BIO_s_mem()));
  require(bio && PEM_write_bio_X509_CRL(bio.get(), list.get()) == 1, "write a list");
  return std::string(bytes_of(bio.get()));
}

std::string pem_of(const Forged& forged) {
  auto pem = pem_of_certificate(forged.certificate.get());
  require(pem.has_value(), "write a certificate");
  return std::string(bytes_of(pem->get()));
}

}  // namespace shunt::test
