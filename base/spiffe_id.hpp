// SPIFFE IDs: "spiffe://TRUST-DOMAIN/PATH", by the rules of the SPIFFE ID specification.
#pragma once

#include <array>
#include <base/result.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace shunt {

class SpiffeId {
 public:
  // Strict: what two readers could take for different identities is refused: capitals in the trust domain, a port,
  // escapes, empty and dotted segments, a slash at the end.
  static Result<SpiffeId> parse(std::string_view text);

  const std::string& text() const { return text_; }
  std::string_view trust_domain() const { return std::string_view(text_).substr(kSchemeBytes, domain_bytes_); }
  std::string_view path() const { return std::string_view(text_).substr(kSchemeBytes + domain_bytes_); }  // "" or "/…"

  // The first 16 bytes of its SHA-256: what the kernel side knows it by.
  std::array<uint64_t, 2> digest() const;

  bool operator==(const SpiffeId& other) const { return text_ == other.text_; }

 private:
  static constexpr size_t kSchemeBytes = 9;  // "spiffe://"

  SpiffeId(std::string_view text, size_t domain_bytes) : text_(text), domain_bytes_(domain_bytes) {}

  std::string text_;
  size_t domain_bytes_;
};

// The identity of a workload: a SPIFFE ID with a path. One without names the trust domain itself.
Result<SpiffeId> parse_workload_id(std::string_view text);

Result<std::string> parse_trust_domain(std::string_view text);

}  // namespace shunt
