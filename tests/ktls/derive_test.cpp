#include "../../ktls/derive.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace shunt {

namespace {

std::vector<uint8_t> bytes_of(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t at = 0; at < hex.size(); at += 2)
    bytes.push_back(static_cast<uint8_t>(std::stoi(hex.substr(at, 2), nullptr, 16)));
  return bytes;
}

std::vector<uint8_t> key_of(const CryptoInfo& info) { return {info.key().begin(), info.key().end()}; }

std::vector<uint8_t> iv_of(const CryptoInfo& info) {
  std::vector<uint8_t> iv(kTlsIvBytes);
  info.copy_iv(iv.data());
  return iv;
}

// RFC 8448 section 3, "Simple 1-RTT Handshake".
struct Vector {
  const char* secret;
  const char* key;
  const char* iv;
} kVectors[] = {
    {"a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643", "9f02283b6c9c07efc26bb9f2ac92e356",
     "cf782b88dd83549aadf1e984"},
    {"9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5", "17422dda596ed5d9acd890e3c63f5051",
     "5b78923dee08579033e523d9"},
};

TEST(Derive, Rfc8448Vectors) {
  const KtlsCipherShape* cipher = ktls_cipher_of_suite(0x1301);
  ASSERT_TRUE(cipher);
  for (const Vector& vector : kVectors) {
    CryptoInfo info;
    ASSERT_TRUE(info.derive(*cipher, bytes_of(vector.secret)));
    EXPECT_EQ(key_of(info), bytes_of(vector.key));
    EXPECT_EQ(iv_of(info), bytes_of(vector.iv));
  }
}

TEST(Derive, LeavesTheSecretAloneUnlessItAdvances) {
  const KtlsCipherShape* cipher = ktls_cipher_of_suite(0x1302);
  KtlsSecret secret;
  std::vector<uint8_t> first(48, 7);
  ASSERT_TRUE(secret.assign(first));
  CryptoInfo info;
  ASSERT_TRUE(info.derive(*cipher, secret.bytes()));
  EXPECT_EQ(std::vector<uint8_t>(secret.bytes().begin(), secret.bytes().end()), first);
  ASSERT_TRUE(advance_secret(*cipher, secret));
  EXPECT_EQ(secret.bytes().size(), 48u);
  EXPECT_NE(std::vector<uint8_t>(secret.bytes().begin(), secret.bytes().end()), first);
}

TEST(Derive, AMovedOrWipedSecretIsEmpty) {
  KtlsSecret secret;
  ASSERT_TRUE(secret.assign(std::vector<uint8_t>(32, 1)));
  KtlsSecret moved = std::move(secret);
  EXPECT_TRUE(secret.bytes().empty());
  EXPECT_EQ(moved.bytes().size(), 32u);
  const uint8_t* memory = moved.bytes().data();
  moved.wipe();
  for (int i = 0; i < 48; i++) EXPECT_EQ(memory[i], 0);
  EXPECT_FALSE(moved.assign(std::vector<uint8_t>(49, 1)));
}

TEST(Reasons, NamesAreDistinctAndTextsSayWhatAndWhy) {
  std::set<std::string> names;
  for (int i = 0; i < kKtlsReasonCount; i++) {
    const KtlsError error{static_cast<KtlsReason>(i)};
    EXPECT_TRUE(names.insert(error.name()).second) << error.name();
    EXPECT_EQ(error.to_string().rfind(std::string(error.name()) + ": ", 0), 0u);
  }
  EXPECT_EQ(
      (KtlsError{KtlsReason::no_ulp, ENOENT}.to_string()),
      "no-ulp: the kernel has no TLS upper layer protocol: No such file or directory (modprobe tls (CONFIG_TLS))");
  EXPECT_EQ((KtlsError{KtlsReason::peer_alert, 0, 40}.to_string()),
            "peer-alert: the peer sent a fatal alert: alert 40, handshake failure");
}

}  // namespace

}  // namespace shunt
