#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include <algorithm>
#include <base/unique_fd.hpp>
#include <base/values.hpp>
#include <cerrno>
#include <filesystem>
#include <ktls/identity/development_ca.hpp>
#include <ktls/identity/pem.hpp>
#include <vector>

namespace shunt {
namespace {

constexpr mode_t kPublic = 0644, kSecret = 0600;
constexpr long kDaySeconds = 86400;
constexpr long kClockSkewSeconds = 300;  // other hosts' clocks may be late
constexpr int kSerialBytes = 16;

// Files that are made together: all of them, or none stays.
class NewFiles {
 public:
  NewFiles() = default;
  NewFiles(const NewFiles&) = delete;
  NewFiles& operator=(const NewFiles&) = delete;
  ~NewFiles() {
    for (const std::string& file : made_) ::unlink(file.c_str());
  }

  Result<void> write(const std::string& file, mode_t mode, std::string_view text) {
    UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
    if (!fd && errno == EEXIST)
      return unexpected(
          Error{EEXIST, file + " is there already, and is not written over", "name another folder, or move it away"});
    if (!fd) return unexpected(errno, "cannot make " + file);
    made_.push_back(file);
    if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) || fsync(fd.get()) != 0)
      return unexpected(errno, "cannot write " + file);
    return {};
  }
  void keep() { made_.clear(); }

 private:
  std::vector<std::string> made_;
};

Result<void> make_folder(const std::string& folder, mode_t mode) {
  if (::mkdir(folder.c_str(), mode) == 0 || errno == EEXIST) return {};
  return unexpected(errno, "cannot make the folder " + folder);
}

// What a certificate says besides its issuer.
struct Plan {
  SpiffeId id;
  const char* common_name;
  unsigned days;
  const char* basic_constraints;
  const char* key_usage;
  const char* extended_key_usage;  // null: none
};

bool extend(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, FreedBy<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool set_serial(X509* certificate) {
  unsigned char bytes[kSerialBytes];
  if (RAND_bytes(bytes, sizeof(bytes)) != 1) return false;
  bytes[0] &= 0x7f;  // not negative
  const std::unique_ptr<BIGNUM, FreedBy<BN_free>> number(BN_bin2bn(bytes, sizeof(bytes), nullptr));
  return number && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr;
}

bool set_name(X509_NAME* name, const char* field, std::string_view text) {
  return X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC, reinterpret_cast<const unsigned char*>(text.data()),
                                    static_cast<int>(text.size()), -1, 0) == 1;
}

bool set_validity(X509* certificate, unsigned days, X509* issuer) {
  if (!X509_gmtime_adj(X509_getm_notBefore(certificate), -kClockSkewSeconds) ||
      !X509_gmtime_adj(X509_getm_notAfter(certificate), static_cast<long>(days) * kDaySeconds))
    return false;
  const ASN1_TIME* last = X509_get0_notAfter(issuer);
  return ASN1_TIME_compare(X509_get0_notAfter(certificate), last) <= 0 || X509_set1_notAfter(certificate, last) == 1;
}

// `issuer` is the certificate itself for a root.
bool fill(X509* certificate, EVP_PKEY* key, const Plan& plan, X509* issuer) {
  X509_NAME* subject = X509_get_subject_name(certificate);
  // The organisation is for those who read certificates: its 64 characters are fewer than a trust domain may have.
  return X509_set_version(certificate, X509_VERSION_3) == 1 && set_serial(certificate) &&
         X509_set_pubkey(certificate, key) == 1 && set_name(subject, "O", plan.id.trust_domain().substr(0, 64)) &&
         set_name(subject, "CN", plan.common_name) &&
         X509_set_issuer_name(certificate, X509_get_subject_name(issuer)) == 1 &&
         extend(certificate, issuer, NID_basic_constraints, plan.basic_constraints) &&
         extend(certificate, issuer, NID_key_usage, plan.key_usage) &&
         (!plan.extended_key_usage || extend(certificate, issuer, NID_ext_key_usage, plan.extended_key_usage)) &&
         extend(certificate, issuer, NID_subject_key_identifier, "hash") &&
         extend(certificate, issuer, NID_authority_key_identifier, "keyid:always") &&
         extend(certificate, issuer, NID_subject_alt_name, "URI:" + plan.id.text());
}

Result<Certificate> make_certificate(EVP_PKEY* key, const Plan& plan, X509* issuer, EVP_PKEY* issuer_key) {
  Certificate certificate(X509_new());
  if (certificate && set_validity(certificate.get(), plan.days, issuer ? issuer : certificate.get()) &&
      fill(certificate.get(), key, plan, issuer ? issuer : certificate.get()) &&
      X509_sign(certificate.get(), issuer_key, EVP_sha256()) > 0)
    return certificate;
  return unexpected(openssl_error("cannot make a certificate for " + plan.id.text()));
}

Result<PrivateKey> make_key() {
  PrivateKey key(EVP_EC_gen("P-256"));
  if (key) return key;
  return unexpected(openssl_error("cannot make a key"));
}

Result<void> write_pair(NewFiles& files, const Issued& issued, X509* certificate, EVP_PKEY* key) {
  const auto key_pem = pem_of_key(key);
  if (!key_pem) return unexpected(key_pem.error());
  const auto certificate_pem = pem_of_certificate(certificate);
  if (!certificate_pem) return unexpected(certificate_pem.error());
  auto written = files.write(issued.key, kSecret, bytes_of(key_pem->get()));
  if (written) written = files.write(issued.certificate, kPublic, bytes_of(certificate_pem->get()));
  return written;
}

struct Ca {
  std::string pem;
  Certificate certificate;
  PrivateKey key;
};

Result<Ca> load_ca(const std::string& folder) {
  const std::string files[] = {folder + "/ca.pem", folder + "/ca.key"};
  std::string texts[2];
  for (int i : {0, 1}) {
    auto text = read_config_text(files[i]);
    if (!text)
      return unexpected(
          Error{text.error().code, files[i] + ": " + text.error().message, "make a CA with shunt ca init"});
    texts[i] = std::move(*text);
  }
  auto certificates = certificates_of_pem(texts[0], files[0]);
  if (!certificates) return unexpected(certificates.error());
  auto key = key_of_pem(texts[1], files[1]);
  OPENSSL_cleanse(texts[1].data(), texts[1].size());
  if (!key) return unexpected(key.error());
  Certificate certificate(sk_X509_shift(certificates->get()));
  if (X509_check_ca(certificate.get()) != 1 || X509_check_private_key(certificate.get(), key->get()) != 1) {
    ERR_clear_error();
    return unexpected(Error{EINVAL, files[0] + " and " + files[1] + " are not a CA and its key", {}});
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0)
    return unexpected(Error{EINVAL, files[0] + " has expired", "make a CA with shunt ca init"});
  return Ca{std::move(texts[0]), std::move(certificate), std::move(*key)};
}

// The CA's own SPIFFE ID names the trust domain.
Result<void> check_domain(const Ca& ca, const SpiffeId& id) {
  const auto uris = uris_of(ca.certificate.get());
  const std::string wanted = "spiffe://" + std::string(id.trust_domain());
  if (uris && std::find(uris->begin(), uris->end(), wanted) != uris->end()) return {};
  return unexpected(Error{EINVAL, "the CA is not that of the trust domain " + std::string(id.trust_domain()),
                          "name another SPIFFE ID, or another CA with --ca"});
}

using RevocationList = std::unique_ptr<X509_CRL, FreedBy<X509_CRL_free>>;
using Time = std::unique_ptr<ASN1_TIME, FreedBy<ASN1_TIME_free>>;
using Integer = std::unique_ptr<ASN1_INTEGER, FreedBy<ASN1_INTEGER_free>>;

Result<Certificate> certificate_of(const Ca& ca, const std::string& file) {
  const auto text = read_pem_file(file);
  if (!text) return unexpected(text.error());
  auto certificates = certificates_of_pem(*text, file);
  if (!certificates) return unexpected(certificates.error());
  Certificate leaf(sk_X509_shift(certificates->get()));
  const bool issued = X509_cmp(ca.certificate.get(), leaf.get()) != 0 &&
                      X509_check_issued(ca.certificate.get(), leaf.get()) == X509_V_OK &&
                      X509_verify(leaf.get(), X509_get0_pubkey(ca.certificate.get())) == 1;
  ERR_clear_error();
  if (issued) return leaf;
  return unexpected(Error{EINVAL, file + " was not issued by this CA", "name its CA with --ca"});
}

// The list that is there, or a new one.
Result<RevocationList> list_of(const Ca& ca, const std::string& file) {
  if (!std::filesystem::exists(file)) return RevocationList(X509_CRL_new());
  const auto text = read_pem_file(file);
  if (!text) return unexpected(text.error());
  auto lists = revocation_lists_of_pem(*text, file);
  if (!lists) return unexpected(lists.error());
  RevocationList list(sk_X509_CRL_shift(lists->get()));
  if (X509_CRL_verify(list.get(), X509_get0_pubkey(ca.certificate.get())) == 1) return list;
  ERR_clear_error();
  return unexpected(Error{EINVAL, file + " is not this CA's list", "move it away"});
}

bool add_revoked(X509_CRL* list, X509* certificate, ASN1_TIME* now) {
  X509_REVOKED* known = nullptr;
  if (X509_CRL_get0_by_cert(list, &known, certificate) == 1) return true;
  std::unique_ptr<X509_REVOKED, FreedBy<X509_REVOKED_free>> entry(X509_REVOKED_new());
  if (!entry || X509_REVOKED_set_serialNumber(entry.get(), X509_get_serialNumber(certificate)) != 1 ||
      X509_REVOKED_set_revocationDate(entry.get(), now) != 1 || X509_CRL_add0_revoked(list, entry.get()) != 1)
    return false;
  entry.release();
  return true;
}

// RFC 5280, 5.2.3: the next one has a higher number.
bool number_list(X509_CRL* list) {
  const Integer last(static_cast<ASN1_INTEGER*>(X509_CRL_get_ext_d2i(list, NID_crl_number, nullptr, nullptr)));
  const Integer next(ASN1_INTEGER_new());
  return next && ASN1_INTEGER_set(next.get(), (last ? ASN1_INTEGER_get(last.get()) : 0) + 1) == 1 &&
         X509_CRL_add1_ext_i2d(list, NID_crl_number, next.get(), 0, X509V3_ADD_REPLACE) == 1;
}

// RFC 5280, 5.2.1
bool name_issuer_key(const Ca& ca, X509_CRL* list) {
  if (X509_CRL_get_ext_by_NID(list, NID_authority_key_identifier, -1) >= 0) return true;
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, ca.certificate.get(), nullptr, nullptr, list, 0);
  const std::unique_ptr<X509_EXTENSION, FreedBy<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, NID_authority_key_identifier, "keyid:always"));
  return extension && X509_CRL_add_ext(list, extension.get(), -1) == 1;
}

bool sign_list(const Ca& ca, X509_CRL* list, ASN1_TIME* now, ASN1_TIME* until) {
  return X509_CRL_set_version(list, X509_CRL_VERSION_2) == 1 &&
         X509_CRL_set_issuer_name(list, X509_get_subject_name(ca.certificate.get())) == 1 && number_list(list) &&
         name_issuer_key(ca, list) && X509_CRL_set1_lastUpdate(list, now) == 1 &&
         X509_CRL_set1_nextUpdate(list, until) == 1 && X509_CRL_sort(list) == 1 &&
         X509_CRL_sign(list, ca.key.get(), EVP_sha256()) > 0;
}

// Whoever watches the file sees the old list or the new one.
Result<void> replace_file(const std::string& file, std::string_view text) {
  const std::string beside = file + ".new";
  ::unlink(beside.c_str());
  NewFiles files;
  if (auto written = files.write(beside, kPublic, text); !written) return written;
  if (::rename(beside.c_str(), file.c_str()) != 0) return unexpected(errno, "cannot replace " + file);
  files.keep();
  return {};
}

}  // namespace

Result<Issued> make_development_ca(const std::string& folder, const std::string& trust_domain, unsigned days) {
  auto id = SpiffeId::parse("spiffe://" + trust_domain);
  if (!id) return unexpected(id.error());
  auto key = make_key();
  if (!key) return unexpected(key.error());
  const Plan plan{*id,    "Shunt development CA", days, "critical,CA:TRUE,pathlen:0", "critical,keyCertSign,cRLSign",
                  nullptr};
  auto certificate = make_certificate(key->get(), plan, nullptr, key->get());
  if (!certificate) return unexpected(certificate.error());
  auto made = make_folder(folder, 0700);
  if (!made) return unexpected(made.error());
  Issued issued{id->text(), time_of(X509_get0_notAfter(certificate->get())), folder + "/ca.pem", folder + "/ca.key",
                folder + "/ca.pem"};
  NewFiles files;
  auto written = write_pair(files, issued, certificate->get(), key->get());
  if (!written) return unexpected(written.error());
  files.keep();
  return issued;
}

Result<Issued> issue_certificate(const std::string& ca_folder, const SpiffeId& id, const std::string& out_folder,
                                 unsigned days) {
  const auto ca = load_ca(ca_folder);
  if (!ca) return unexpected(ca.error());
  const auto domain = check_domain(*ca, id);
  if (!domain) return unexpected(domain.error());
  auto key = make_key();
  if (!key) return unexpected(key.error());
  const Plan plan{id, "workload", days, "critical,CA:FALSE", "critical,digitalSignature", "serverAuth,clientAuth"};
  auto certificate = make_certificate(key->get(), plan, ca->certificate.get(), ca->key.get());
  if (!certificate) return unexpected(certificate.error());
  auto made = make_folder(out_folder, 0755);
  if (!made) return unexpected(made.error());
  Issued issued{id.text(), time_of(X509_get0_notAfter(certificate->get())), out_folder + "/certificate.pem",
                out_folder + "/key.pem", out_folder + "/bundle.pem"};
  NewFiles files;
  auto written = write_pair(files, issued, certificate->get(), key->get());
  if (written) written = files.write(issued.bundle, kPublic, ca->pem);
  if (!written) return unexpected(written.error());
  files.keep();
  return issued;
}

Result<Revoked> revoke_certificates(const std::string& ca_folder, const std::vector<std::string>& certificate_files,
                                    unsigned days) {
  const auto ca = load_ca(ca_folder);
  if (!ca) return unexpected(ca.error());
  const std::string file = ca_folder + "/ca.crl";
  auto list = list_of(*ca, file);
  if (!list) return unexpected(list.error());
  // Other hosts' clocks may be late, here too.
  const Time now(X509_gmtime_adj(nullptr, -kClockSkewSeconds));
  const Time until(X509_gmtime_adj(nullptr, static_cast<long>(days) * kDaySeconds));
  bool made = *list && now && until;
  for (const std::string& name : certificate_files) {
    const auto certificate = certificate_of(*ca, name);
    if (!certificate) return unexpected(certificate.error());
    made = made && add_revoked(list->get(), certificate->get(), now.get());
  }
  if (!made || !sign_list(*ca, list->get(), now.get(), until.get()))
    return unexpected(openssl_error("cannot make the list of revoked certificates"));
  const auto pem = pem_of_revocation_list(list->get());
  if (!pem) return unexpected(pem.error());
  if (auto replaced = replace_file(file, bytes_of(pem->get())); !replaced) return unexpected(replaced.error());
  const int revoked = sk_X509_REVOKED_num(X509_CRL_get_REVOKED(list->get()));
  return Revoked{file, time_of(until.get()), static_cast<uint64_t>(std::max(revoked, 0))};
}

}  // namespace shunt
