#include <openssl/sha.h>

#include <algorithm>
#include <base/parse.hpp>
#include <base/spiffe_id.hpp>
#include <cstring>

namespace shunt {
namespace {

constexpr std::string_view kScheme = "spiffe://";
constexpr size_t kDomainBytesMax = 255;
constexpr size_t kIdBytesMax = 2048;
constexpr const char* kExample = "write spiffe://TRUST-DOMAIN/PATH";

bool is_domain_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
}
bool is_path_character(char c) { return is_domain_character(c) || (c >= 'A' && c <= 'Z'); }

Result<void> check_path(std::string_view path) {
  for (std::string_view rest = path; !rest.empty();) {
    rest.remove_prefix(1);  // the slash
    const std::string_view segment = rest.substr(0, rest.find('/'));
    if (segment.empty()) return invalid("the path has an empty segment, or a slash at its end", kExample);
    if (segment == "." || segment == "..") return invalid("the path has a segment of dots", "write it without");
    if (!std::all_of(segment.begin(), segment.end(), is_path_character))
      return invalid(in_quotes(segment) + " has other characters than letters, digits, '.', '-' and '_'", kExample);
    rest.remove_prefix(segment.size());
  }
  return {};
}

}  // namespace

Result<std::string> parse_trust_domain(std::string_view text) {
  if (text.empty()) return invalid("there is no trust domain", kExample);
  if (text.size() > kDomainBytesMax) return invalid("the trust domain is longer than 255 bytes", "shorten it");
  if (!std::all_of(text.begin(), text.end(), is_domain_character))
    return invalid("the trust domain " + in_quotes(text) +
                       " has other characters than lower-case letters, digits, '.', '-' and '_'",
                   "write mesh.example, for example");
  return std::string(text);
}

Result<SpiffeId> SpiffeId::parse(std::string_view text) {
  static_assert(kScheme.size() == kSchemeBytes);
  if (text.size() > kIdBytesMax) return invalid("a SPIFFE ID has at most 2048 bytes", "shorten it");
  if (!text.starts_with(kScheme)) return invalid(in_quotes(text) + " is not a SPIFFE ID", kExample);
  const std::string_view rest = text.substr(kSchemeBytes);
  const size_t slash = std::min(rest.find('/'), rest.size());
  const auto domain = parse_trust_domain(rest.substr(0, slash));
  if (!domain) return unexpected(domain.error());
  const auto path = check_path(rest.substr(slash));
  if (!path) return unexpected(path.error());
  return SpiffeId(text, slash);
}

std::array<uint64_t, 2> SpiffeId::digest() const {
  unsigned char whole[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text_.data()), text_.size(), whole);
  std::array<uint64_t, 2> first{};
  static_assert(sizeof(first) <= sizeof(whole));
  std::memcpy(first.data(), whole, sizeof(first));
  return first;
}

Result<SpiffeId> parse_workload_id(std::string_view text) {
  auto id = SpiffeId::parse(text);
  if (id && id->path().empty()) return invalid(in_quotes(text) + " names a trust domain, not a workload", "add a path");
  return id;
}

}  // namespace shunt
