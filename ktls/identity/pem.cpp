#include <openssl/pem.h>

#include <base/values.hpp>
#include <ctime>
#include <ktls/identity/pem.hpp>

namespace shunt {
namespace {

Bio reader_of(const std::string& text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }

// Nobody is there to be asked.
int no_passphrase(char*, int, int, void*) { return -1; }

// All objects of a kind, at least one: `read` gives the next, `push` keeps it, `release` is for one that cannot be
// kept.
template <typename Stack, typename Read, typename Push, typename Release>
Result<Stack> all_of_pem(Stack stack, const std::string& pem, const std::string& file, const char* what,
                         const char* label, Read read, Push push, Release release) {
  const Bio bio = reader_of(pem);
  if (!bio || !stack) return unexpected(openssl_error(file));
  bool any = false;
  while (auto* object = read(bio.get(), nullptr, no_passphrase, nullptr)) {
    any = true;
    if (push(stack.get(), object) > 0) continue;
    release(object);
    return unexpected(openssl_error(file));
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (!at_end) return unexpected(openssl_error(file + ": a " + what + " cannot be read"));
  ERR_clear_error();
  if (any) return stack;
  return unexpected(Error{EINVAL, file + ": there is no " + what + " in it",
                          std::string("it is to begin with -----BEGIN ") + label + "-----"});
}

}  // namespace

Result<std::string> read_pem_file(const std::string& file) {
  auto text = read_config_text(file);
  if (!text) return unexpected(Error{text.error().code, file + ": " + text.error().message, text.error().remedy});
  return text;
}

Result<Certificates> certificates_of_pem(const std::string& pem, const std::string& file) {
  const auto push = [](STACK_OF(X509) * stack, X509 * one) { return sk_X509_push(stack, one); };
  return all_of_pem(Certificates(sk_X509_new_null()), pem, file, "certificate", "CERTIFICATE", PEM_read_bio_X509, push,
                    X509_free);
}

Result<RevocationLists> revocation_lists_of_pem(const std::string& pem, const std::string& file) {
  const auto push = [](STACK_OF(X509_CRL) * stack, X509_CRL * one) { return sk_X509_CRL_push(stack, one); };
  return all_of_pem(RevocationLists(sk_X509_CRL_new_null()), pem, file, "list of revoked certificates", "X509 CRL",
                    PEM_read_bio_X509_CRL, push, X509_CRL_free);
}

Result<PrivateKey> key_of_pem(const std::string& pem, const std::string& file) {
  const Bio bio = reader_of(pem);
  PrivateKey key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr) : nullptr);
  if (key) return key;
  return unexpected(openssl_error(file + ": there is no private key in it", "it is to be PEM, without a passphrase"));
}

Result<Bio> pem_of_certificate(X509* certificate) {
  Bio bio(BIO_new(BIO_s_mem()));
  if (bio && PEM_write_bio_X509(bio.get(), certificate) == 1) return bio;
  return unexpected(openssl_error("cannot write a certificate"));
}

Result<Bio> pem_of_revocation_list(X509_CRL* list) {
  Bio bio(BIO_new(BIO_s_mem()));
  if (bio && PEM_write_bio_X509_CRL(bio.get(), list) == 1) return bio;
  return unexpected(openssl_error("cannot write a list of revoked certificates"));
}

Result<Bio> pem_of_key(EVP_PKEY* key) {
  Bio bio(BIO_new(BIO_s_secmem()));
  if (bio && PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1) return bio;
  return unexpected(openssl_error("cannot write a key"));
}

std::string_view bytes_of(BIO* memory) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory, &data);
  return {data, static_cast<size_t>(size)};
}

std::optional<std::vector<std::string>> uris_of(X509* certificate) {
  int times = 0;  // -1: there is no such extension; -2: several
  const std::unique_ptr<GENERAL_NAMES, FreedBy<GENERAL_NAMES_free>> names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, &times, nullptr)));
  std::vector<std::string> uris;
  if (!names) return times == -1 ? std::optional(uris) : std::nullopt;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); i++) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_STRING* uri = name->d.uniformResourceIdentifier;
    uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
                      static_cast<size_t>(ASN1_STRING_length(uri)));
  }
  return uris;
}

std::string time_of(const ASN1_TIME* time) {
  tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return "?";
  char text[32];
  const size_t size = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return std::string(text, size);
}

}  // namespace shunt
