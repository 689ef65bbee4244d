#include <sys/stat.h>

#include <base/values.hpp>
#include <ctime>
#include <ktls/gateway/handshake.hpp>
#include <ktls/gateway/security.hpp>
#include <sstream>

namespace shunt::gateway {
namespace {

constexpr size_t kListBytesMax = size_t{64} << 20;  // of large CAs

Result<std::string> text_of(const std::string& file) {
  auto text = read_config_text(file, kListBytesMax);
  if (!text) return unexpected(Error{text.error().code, file + ": " + text.error().message, text.error().remedy});
  return text;
}

// One a line; what begins with '#' is passed over.
Result<std::vector<SpiffeId>> read_denied(const std::string& file, const std::string& text) {
  std::vector<SpiffeId> denied;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    number++;
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.starts_with('#')) continue;
    auto id = parse_workload_id(line);
    if (!id)
      return unexpected(
          Error{EINVAL, file + ":" + std::to_string(number) + ": " + id.error().message, id.error().remedy});
    denied.push_back(std::move(*id));
  }
  return denied;
}

struct Trust {
  std::shared_ptr<const TrustBundles> bundles;
  std::string texts;  // a digest of what they were made of
};

// The texts that make the bundles, in the order in which they are used.
class TrustTexts {
 public:
  Result<std::string> read(const std::string& file) {
    auto text = text_of(file);
    if (!text) return text;
    const std::string head = file + '\0' + std::to_string(text->size()) + '\0';
    if (!digest_ || EVP_DigestUpdate(digest_.get(), head.data(), head.size()) != 1 ||
        EVP_DigestUpdate(digest_.get(), text->data(), text->size()) != 1)
      return unexpected(openssl_error("cannot make a digest"));
    return text;
  }

  Result<std::string> digest() {
    std::string bytes(EVP_MAX_MD_SIZE, '\0');
    unsigned int size = 0;
    if (!digest_ || EVP_DigestFinal_ex(digest_.get(), reinterpret_cast<unsigned char*>(bytes.data()), &size) != 1)
      return unexpected(openssl_error("cannot make a digest"));
    bytes.resize(size);
    return bytes;
  }

 private:
  static EVP_MD_CTX* begun() {
    EVP_MD_CTX* digest = EVP_MD_CTX_new();
    if (digest && EVP_DigestInit_ex(digest, EVP_sha256(), nullptr) == 1) return digest;
    EVP_MD_CTX_free(digest);
    return nullptr;
  }

  std::unique_ptr<EVP_MD_CTX, FreedBy<EVP_MD_CTX_free>> digest_{begun()};
};

Result<Trust> load_trust(const Config& config) {
  auto trust = std::make_shared<TrustBundles>();
  TrustTexts texts;
  for (const TrustedDomain& domain : config.trust) {
    const auto bundle = texts.read(domain.bundle);
    auto added = bundle ? trust->add(domain.name, *bundle, domain.bundle) : unexpected(bundle.error());
    if (added && !domain.crl.empty()) {
      const auto lists = texts.read(domain.crl);
      added = lists ? trust->add_revocations(domain.name, *lists, domain.crl) : unexpected(lists.error());
    }
    if (!added) return unexpected(added.error());
  }
  if (!config.deny.empty()) {
    const auto text = texts.read(config.deny);
    auto denied = text ? read_denied(config.deny, *text) : unexpected(text.error());
    if (!denied) return unexpected(denied.error());
    trust->deny(std::move(*denied));
  }
  auto digest = texts.digest();
  if (!digest) return unexpected(digest.error());
  return Trust{std::move(trust), std::move(*digest)};
}

Result<SslContext> make_context(const SSL_METHOD* method, const Credentials& credentials,
                                const KtlsSettings& settings) {
  SslContext ctx(SSL_CTX_new(method));
  if (!ctx) return unexpected(openssl_error("cannot make a TLS context"));
  const auto prepared = ktls_prepare(ctx.get(), settings);
  if (!prepared) return unexpected(Error{EIO, prepared.error().to_string(), {}});
  const auto used = use_credentials(ctx.get(), credentials);
  if (!used) return unexpected(used.error());
  SSL_CTX_set_mode(ctx.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  prepare_peer_check(ctx.get());
  Handshake::prepare(ctx.get());
  return ctx;
}

}  // namespace

Result<std::shared_ptr<const Security>> load_security(const Config& config, const KtlsSettings& settings,
                                                      const Security* before) {
  auto trust = load_trust(config);
  if (!trust) return unexpected(trust.error());
  auto credentials = load_credentials(config.certificate, config.key);
  if (!credentials) return unexpected(credentials.error());
  if (X509_cmp_current_time(X509_get0_notAfter(credentials->leaf.get())) < 0)
    return unexpected(Error{EINVAL, config.certificate + ": expired at " + credentials->expires, "renew it"});
  auto server = make_context(TLS_server_method(), *credentials, settings);
  if (!server) return unexpected(server.error());
  auto client = make_context(TLS_client_method(), *credentials, settings);
  if (!client) return unexpected(client.error());
  const bool as_before = before != nullptr && before->trust_texts == trust->texts;
  auto security = std::make_shared<Security>(Security{std::move(credentials->id), std::move(credentials->expires),
                                                      std::move(credentials->serial),
                                                      as_before ? before->trust : std::move(trust->bundles),
                                                      std::move(trust->texts), std::move(*server), std::move(*client)});
  return std::shared_ptr<const Security>(std::move(security));
}

std::optional<PeerRefusal> Recheck::judge(const PresentedPeer& peer) {
  const std::string fingerprint = peer.fingerprint();
  const auto known = known_.find(fingerprint);
  if (!fingerprint.empty() && known != known_.end()) return known->second;
  judged_++;
  const auto id = peer.verify(*trust_);
  return known_[fingerprint] = id ? std::nullopt : std::optional(id.error());
}

WatchedFiles::WatchedFiles(const Config& config) : files_{config.certificate, config.key} {
  for (const TrustedDomain& domain : config.trust) {
    files_.push_back(domain.bundle);
    if (!domain.crl.empty()) files_.push_back(domain.crl);
  }
  if (!config.deny.empty()) files_.push_back(config.deny);
  last_ = signature();
}

bool WatchedFiles::changed() {
  std::string now = signature();
  if (now == last_) return false;
  last_ = std::move(now);
  return true;
}

std::string WatchedFiles::signature() const {
  std::string text;
  for (const std::string& file : files_) {
    struct stat status {};
    if (stat(file.c_str(), &status) == 0) {
      for (const uint64_t part :
           {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino),
            static_cast<uint64_t>(status.st_size), static_cast<uint64_t>(status.st_mode),
            static_cast<uint64_t>(status.st_ctim.tv_sec), static_cast<uint64_t>(status.st_ctim.tv_nsec)})
        text += std::to_string(part) + ",";
    }
    text += ";";
  }
  return text;
}

uint64_t Security::expiry_seconds() const {
  tm fields{};
  const char* end = strptime(expires.c_str(), "%Y-%m-%dT%H:%M:%SZ", &fields);
  return end != nullptr && *end == '\0' ? static_cast<uint64_t>(timegm(&fields)) : 0;
}

}  // namespace shunt::gateway
