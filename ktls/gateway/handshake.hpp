// The TLS handshake of one connection with another gateway, without waiting.
#pragma once

#include <ktls/gateway/reasons.hpp>
#include <ktls/gateway/security.hpp>
#include <memory>

namespace shunt::gateway {

struct Refusal {
  std::string reason;  // of one of the three lists
  std::string detail;
};

inline Refusal refusal(Reason reason, std::string detail = {}) { return {reason_name(reason), std::move(detail)}; }

class Handshake {
 public:
  enum class State { done, wants_input, wants_output, failed };

  // Once a context, for both roles.
  static void prepare(SSL_CTX* ctx);

  // As server, for one of the services of `config`; as client, for the service of another host. `to_kernel`: the
  // session is to be handed off. The descriptor stays the caller's.
  static std::unique_ptr<Handshake> accept(std::shared_ptr<const Security> security, const Config& config, int fd,
                                           bool to_kernel);
  static std::unique_ptr<Handshake> connect(std::shared_ptr<const Security> security, const RemoteService& service,
                                            int fd, bool to_kernel);

  State advance();
  const Refusal& refusal() const { return refusal_; }  // after `failed`

  SSL* ssl() { return ssl_.get(); }
  const LocalService* service() const { return service_; }  // of a server; null: none was named that is known
  const std::shared_ptr<const Security>& security() const { return security_; }  // with which it began
  const std::string& service_name() const { return service_name_; }
  const SpiffeId* peer_id() const { return check_.identity() ? &*check_.identity() : nullptr; }
  std::string peer() const { return peer_id() ? peer_id()->text() : std::string(); }

 private:
  friend struct HandshakeCallbacks;

  Handshake(std::shared_ptr<const Security> security, const Config* config, std::vector<SpiffeId> expected)
      : security_(std::move(security)), config_(config), check_(security_->trust, std::move(expected)) {}
  bool begin(SSL_CTX* ctx, int fd, bool to_kernel);
  bool choose_service(const char* name);
  State fail(Refusal refusal);
  Refusal explain(int ssl_error, int system_error, unsigned long code) const;

  std::shared_ptr<const Security> security_;
  const Config* config_;
  PeerCheck check_;
  SslSession ssl_;  // after what its callbacks use
  const LocalService* service_ = nullptr;
  std::string service_name_;
  Refusal refusal_;
};

}  // namespace shunt::gateway
