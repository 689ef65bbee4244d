#include <sys/stat.h>

#include <ktls/identity/credentials.hpp>
#include <ktls/identity/peer.hpp>
#include <ktls/identity/pem.hpp>

namespace shunt {
namespace {

Result<PrivateKey> load_key(const std::string& file) {
  struct stat status {};
  if (stat(file.c_str(), &status) == 0 && (status.st_mode & S_IRWXO) != 0)
    return unexpected(Error{EACCES, file + ": everybody may read this key", "chmod o-rwx " + file});
  auto text = read_pem_file(file);
  if (!text) return unexpected(text.error());
  auto key = key_of_pem(*text, file);
  OPENSSL_cleanse(text->data(), text->size());
  return key;
}

std::string serial_of(const X509* certificate) {
  const std::unique_ptr<BIGNUM, FreedBy<BN_free>> number(
      ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr));
  char* digits = number ? BN_bn2hex(number.get()) : nullptr;
  std::string text = digits ? digits : "";
  OPENSSL_free(digits);
  return text;
}

}  // namespace

Result<Credentials> load_credentials(const std::string& certificate_file, const std::string& key_file) {
  const auto text = read_pem_file(certificate_file);
  if (!text) return unexpected(text.error());
  auto chain = certificates_of_pem(*text, certificate_file);
  if (!chain) return unexpected(chain.error());
  auto key = load_key(key_file);
  if (!key) return unexpected(key.error());
  Certificate leaf(sk_X509_shift(chain->get()));
  if (X509_check_private_key(leaf.get(), key->get()) != 1) {
    ERR_clear_error();
    return unexpected(Error{EINVAL, key_file + ": this is not the key of the certificate in " + certificate_file, {}});
  }
  auto id = identity_of(leaf.get());
  if (!id) return unexpected(Error{EINVAL, certificate_file + ": " + id.error().to_string(), {}});
  std::string expires = time_of(X509_get0_notAfter(leaf.get()));
  std::string serial = serial_of(leaf.get());
  return Credentials{std::move(leaf), std::move(*chain),  std::move(*key),
                     std::move(*id),  std::move(expires), std::move(serial)};
}

Result<void> use_credentials(SSL_CTX* ctx, const Credentials& credentials) {
  if (SSL_CTX_use_cert_and_key(ctx, credentials.leaf.get(), credentials.key.get(), credentials.chain.get(), 1) == 1)
    return {};
  return unexpected(openssl_error("OpenSSL does not take the certificate of " + credentials.id.text()));
}

}  // namespace shunt
