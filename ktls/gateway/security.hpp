// Who this gateway is and whom it trusts, as OpenSSL needs it; made anew when the files change. Connections keep the
// one that they began with.
#pragma once

#include <ktls/gateway/config.hpp>
#include <ktls/identity/credentials.hpp>
#include <ktls/identity/peer.hpp>
#include <ktls/ktls.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

namespace shunt::gateway {

inline constexpr std::string_view kProtocol = "shunt/1";  // ALPN

struct Security {
  SpiffeId id;
  std::string expires;  // "2025-01-02T03:04:05Z"
  std::string serial;
  std::shared_ptr<const TrustBundles> trust;
  std::string trust_texts;  // a digest of all files that `trust` was made of
  SslContext server;
  SslContext client;

  uint64_t expiry_seconds() const;  // since 1970
};

// `settings`: the ciphers to offer. kTLS or not, sessions are made so that they could be handed off. `before` (may be
// null): what was in use; if nothing has changed in whom it trusts, that is the same object.
Result<std::shared_ptr<const Security>> load_security(const Config& config, const KtlsSettings& settings,
                                                      const Security* before);

// Judges peers that were taken before by other bundles. Most connections of a mesh are of few peers: each of these is
// judged once.
class Recheck {
 public:
  explicit Recheck(std::shared_ptr<const TrustBundles> trust) : trust_(std::move(trust)) {}
  const std::shared_ptr<const TrustBundles>& trust() const { return trust_; }
  // Why it is not trusted any more; nothing: it is.
  std::optional<PeerRefusal> judge(const PresentedPeer& peer);
  size_t judged() const { return judged_; }  // with a look at signatures

 private:
  std::shared_ptr<const TrustBundles> trust_;
  std::unordered_map<std::string, std::optional<PeerRefusal>> known_;  // by fingerprint
  size_t judged_ = 0;
};

// What all threads use now.
class CurrentSecurity {
 public:
  std::shared_ptr<const Security> get() const {
    const std::lock_guard lock(mutex_);
    return security_;
  }
  void set(std::shared_ptr<const Security> security) {
    const std::lock_guard lock(mutex_);
    security_ = std::move(security);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Security> security_;
};

// Have the files changed since the last time that it was asked? By what stat(2) says: that works for files that are
// written anew, moved into place, or behind a symbolic link that is.
class WatchedFiles {
 public:
  explicit WatchedFiles(const Config& config);
  bool changed();

 private:
  std::string signature() const;

  std::vector<std::string> files_;
  std::string last_;
};

}  // namespace shunt::gateway
