// What this end presents: a certificate with those above it, its key, and its identity.
#pragma once

#include <base/spiffe_id.hpp>
#include <ktls/openssl.hpp>
#include <string>

namespace shunt {

struct Credentials {
  Certificate leaf;
  Certificates chain;  // without the leaf
  PrivateKey key;
  SpiffeId id;
  std::string expires;  // "2025-01-02T03:04:05Z"
  std::string serial;   // of the leaf, in hexadecimal digits as `openssl x509 -serial` shows them
};

// From PEM files: the leaf first, then intermediate certificates; and its key. They must belong together, be an
// X.509-SVID, and others may not read the key.
Result<Credentials> load_credentials(const std::string& certificate_file, const std::string& key_file);

Result<void> use_credentials(SSL_CTX* ctx, const Credentials& credentials);

}  // namespace shunt
