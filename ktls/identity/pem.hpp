// Certificates and keys as PEM texts, and what certificates say.
#pragma once

#include <ktls/openssl.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

// The text of a file; the errors name it.
Result<std::string> read_pem_file(const std::string& file);

// All certificates of a text, at least one, in their order. Other blocks are passed over. `file` is for the messages.
Result<Certificates> certificates_of_pem(const std::string& pem, const std::string& file);

// Likewise the lists of revoked certificates (RFC 5280, 5).
Result<RevocationLists> revocation_lists_of_pem(const std::string& pem, const std::string& file);

// The private key of a text; without a passphrase.
Result<PrivateKey> key_of_pem(const std::string& pem, const std::string& file);

Result<Bio> pem_of_certificate(X509* certificate);
Result<Bio> pem_of_revocation_list(X509_CRL* list);
Result<Bio> pem_of_key(EVP_PKEY* key);  // in memory that is wiped

std::string_view bytes_of(BIO* memory);

// The URIs among the subject's alternative names; nothing if they cannot be read.
std::optional<std::vector<std::string>> uris_of(X509* certificate);

std::string time_of(const ASN1_TIME* time);  // "2025-01-02T03:04:05Z"

}  // namespace shunt
