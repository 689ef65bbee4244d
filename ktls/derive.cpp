#include "derive.hpp"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <memory>

namespace shunt {

namespace {

constexpr KtlsCipherShape kCiphers[] = {
    {kKtlsAes128Gcm, 0x1301, "TLS_AES_128_GCM_SHA256", "SHA256", 32, TLS_CIPHER_AES_GCM_128,
     TLS_CIPHER_AES_GCM_128_KEY_SIZE, TLS_CIPHER_AES_GCM_128_SALT_SIZE, sizeof(tls12_crypto_info_aes_gcm_128)},
    {kKtlsAes256Gcm, 0x1302, "TLS_AES_256_GCM_SHA384", "SHA384", 48, TLS_CIPHER_AES_GCM_256,
     TLS_CIPHER_AES_GCM_256_KEY_SIZE, TLS_CIPHER_AES_GCM_256_SALT_SIZE, sizeof(tls12_crypto_info_aes_gcm_256)},
    {kKtlsChacha20Poly1305, 0x1303, "TLS_CHACHA20_POLY1305_SHA256", "SHA256", 32, TLS_CIPHER_CHACHA20_POLY1305,
     TLS_CIPHER_CHACHA20_POLY1305_KEY_SIZE, TLS_CIPHER_CHACHA20_POLY1305_SALT_SIZE,
     sizeof(tls12_crypto_info_chacha20_poly1305)},
};

constexpr char kLabelPrefix[] = "tls13 ";
constexpr size_t kLabelBytesMax = 12;

template <auto Function>
struct Freed {
  template <typename T>
  void operator()(T* object) const {
    Function(object);
  }
};

bool run_hkdf(const char* digest, std::span<const uint8_t> secret, std::span<uint8_t> info, std::span<uint8_t> out) {
  std::unique_ptr<EVP_KDF, Freed<EVP_KDF_free>> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  if (!kdf) return false;
  std::unique_ptr<EVP_KDF_CTX, Freed<EVP_KDF_CTX_free>> ctx(EVP_KDF_CTX_new(kdf.get()));
  if (!ctx) return false;
  int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, const_cast<char*>(digest), 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, const_cast<uint8_t*>(secret.data()), secret.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
      OSSL_PARAM_construct_end(),
  };
  return EVP_KDF_derive(ctx.get(), out.data(), out.size(), parameters) == 1;
}

}  // namespace

std::span<const KtlsCipherShape> ktls_ciphers() { return kCiphers; }

const KtlsCipherShape* ktls_cipher_of_suite(uint16_t suite) {
  for (const KtlsCipherShape& cipher : kCiphers) {
    if (cipher.suite == suite) return &cipher;
  }
  return nullptr;
}

bool expand_label(const char* digest, std::span<const uint8_t> secret, const char* label, std::span<uint8_t> out) {
  // struct HkdfLabel { uint16 length; opaque label<7..255>; opaque context<0..255>; }, the context empty.
  uint8_t info[2 + 1 + sizeof(kLabelPrefix) + kLabelBytesMax + 1];
  const size_t label_bytes = std::strlen(label);
  assert(label_bytes <= kLabelBytesMax && out.size() <= 255);
  size_t at = 0;
  info[at++] = 0;
  info[at++] = static_cast<uint8_t>(out.size());
  info[at++] = static_cast<uint8_t>(sizeof(kLabelPrefix) - 1 + label_bytes);
  std::memcpy(info + at, kLabelPrefix, sizeof(kLabelPrefix) - 1);
  at += sizeof(kLabelPrefix) - 1;
  std::memcpy(info + at, label, label_bytes);
  at += label_bytes;
  info[at++] = 0;
  ERR_set_mark();
  const bool ok = run_hkdf(digest, secret, {info, at}, out);
  ERR_pop_to_mark();
  return ok;
}

CryptoInfo::~CryptoInfo() { OPENSSL_cleanse(&data_, sizeof(data_)); }

CryptoInfo::Fields CryptoInfo::fields() {
  switch (cipher_->bit) {
    case kKtlsAes128Gcm:
      return {data_.aes_128.iv, data_.aes_128.key, data_.aes_128.salt};
    case kKtlsAes256Gcm:
      return {data_.aes_256.iv, data_.aes_256.key, data_.aes_256.salt};
    case kKtlsChacha20Poly1305:
      break;
  }
  return {data_.chacha20.iv, data_.chacha20.key, data_.chacha20.salt};
}

bool CryptoInfo::derive(const KtlsCipherShape& cipher, std::span<const uint8_t> secret) {
  OPENSSL_cleanse(&data_, sizeof(data_));  // the record sequence number too
  cipher_ = &cipher;
  data_.info.version = TLS_1_3_VERSION;
  data_.info.cipher_type = cipher.kernel_type;
  uint8_t iv[kTlsIvBytes];
  const Fields to = fields();
  const bool ok = expand_label(cipher.digest, secret, "key", {to.key, cipher.key_bytes}) &&
                  expand_label(cipher.digest, secret, "iv", iv);
  if (ok) {
    std::memcpy(to.salt, iv, cipher.salt_bytes);
    std::memcpy(to.iv, iv + cipher.salt_bytes, kTlsIvBytes - cipher.salt_bytes);
  }
  OPENSSL_cleanse(iv, sizeof(iv));
  return ok;
}

int CryptoInfo::install(int fd, int direction) const {
  return setsockopt(fd, SOL_TLS, direction, &data_, cipher_->crypto_bytes) == 0 ? 0 : errno;
}

std::span<const uint8_t> CryptoInfo::key() const {
  return {const_cast<CryptoInfo*>(this)->fields().key, cipher_->key_bytes};
}

void CryptoInfo::copy_iv(uint8_t iv[kTlsIvBytes]) const {
  const Fields from = const_cast<CryptoInfo*>(this)->fields();
  std::memcpy(iv, from.salt, cipher_->salt_bytes);
  std::memcpy(iv + cipher_->salt_bytes, from.iv, kTlsIvBytes - cipher_->salt_bytes);
}

bool advance_secret(const KtlsCipherShape& cipher, KtlsSecret& secret) {
  uint8_t next[48];
  const std::span<uint8_t> out(next, cipher.secret_bytes);
  const bool ok = expand_label(cipher.digest, secret.bytes(), "traffic upd", out) && secret.assign(out);
  OPENSSL_cleanse(next, sizeof(next));
  return ok;
}

bool KtlsSecret::assign(std::span<const uint8_t> bytes) {
  if (bytes.size() > bytes_.size()) return false;
  wipe();
  std::copy(bytes.begin(), bytes.end(), bytes_.begin());
  size_ = bytes.size();
  return true;
}

KtlsSecret& KtlsSecret::operator=(KtlsSecret&& other) noexcept {
  if (this == &other) return *this;
  assign(other.bytes());
  other.wipe();
  return *this;
}

void KtlsSecret::wipe() {
  OPENSSL_cleanse(bytes_.data(), bytes_.size());
  size_ = 0;
}

}  // namespace shunt
