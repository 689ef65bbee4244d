// Keys for the kernel from TLS 1.3 traffic secrets (RFC 8446 section 7).
#pragma once

#include <linux/tls.h>
#include <sys/socket.h>

#include <cstdint>
#include <ktls/ktls.hpp>
#include <span>

namespace shunt {

struct KtlsCipherShape {
  KtlsCipher bit;
  uint16_t suite;        // IANA number, as SSL_CIPHER_get_protocol_id() gives it
  const char* name;      // of OpenSSL
  const char* digest;    // of the key schedule
  size_t secret_bytes;   // its size
  uint16_t kernel_type;  // TLS_CIPHER_...
  size_t key_bytes;
  size_t salt_bytes;       // how much of the 12-byte IV the kernel calls salt
  socklen_t crypto_bytes;  // of the kernel's structure
};

inline constexpr size_t kTlsIvBytes = 12;

std::span<const KtlsCipherShape> ktls_ciphers();
const KtlsCipherShape* ktls_cipher_of_suite(uint16_t suite);  // null: not one of ours

// HKDF-Expand-Label(secret, label, "", out.size()) of RFC 8446 section 7.1. `label` at most 12 characters, `out` at
// most 255 bytes. False if OpenSSL fails; its error queue is left as it was.
bool expand_label(const char* digest, std::span<const uint8_t> secret, const char* label, std::span<uint8_t> out);

// The argument of TLS_TX and TLS_RX. Wiped when it goes.
class CryptoInfo {
 public:
  CryptoInfo() = default;
  ~CryptoInfo();
  CryptoInfo(const CryptoInfo&) = delete;
  CryptoInfo& operator=(const CryptoInfo&) = delete;

  // Derives key and IV; the record sequence number is 0. False if OpenSSL fails.
  bool derive(const KtlsCipherShape& cipher, std::span<const uint8_t> secret);
  // Installs it for `direction` (TLS_TX or TLS_RX): 0 or a positive errno.
  int install(int fd, int direction) const;

  const KtlsCipherShape* cipher() const { return cipher_; }
  std::span<const uint8_t> key() const;
  void copy_iv(uint8_t iv[kTlsIvBytes]) const;

 private:
  struct Fields {
    uint8_t* iv;
    uint8_t* key;
    uint8_t* salt;
  };
  Fields fields();

  const KtlsCipherShape* cipher_ = nullptr;
  union {
    tls_crypto_info info;
    tls12_crypto_info_aes_gcm_128 aes_128;
    tls12_crypto_info_aes_gcm_256 aes_256;
    tls12_crypto_info_chacha20_poly1305 chacha20;
  } data_{};
};

// The next generation of a traffic secret (RFC 8446 section 7.2), in place. False if OpenSSL fails; `secret` is
// unchanged then.
bool advance_secret(const KtlsCipherShape& cipher, KtlsSecret& secret);

}  // namespace shunt
