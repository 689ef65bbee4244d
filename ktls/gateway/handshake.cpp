#include <base/printable.hpp>
#include <cerrno>
#include <cstring>
#include <ktls/gateway/handshake.hpp>

namespace shunt::gateway {
namespace {

// The protocol as ALPN carries it: length and name.
constexpr unsigned char kWireProtocol[] = "\x07shunt/1";
constexpr unsigned kWireProtocolBytes = sizeof(kWireProtocol) - 1;
static_assert(kWireProtocolBytes == kProtocol.size() + 1 && kWireProtocol[0] == kProtocol.size());

int handshake_index() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

}  // namespace

struct HandshakeCallbacks {
  static Handshake& of(SSL* ssl) { return *static_cast<Handshake*>(SSL_get_ex_data(ssl, handshake_index())); }

  // Is called without a name, too.
  static int on_name(SSL* ssl, int* alert, void*) {
    if (!SSL_is_server(ssl)) return SSL_TLSEXT_ERR_OK;
    if (of(ssl).choose_service(SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name))) return SSL_TLSEXT_ERR_OK;
    *alert = SSL_AD_UNRECOGNIZED_NAME;
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }

  static int on_protocols(SSL* ssl, const unsigned char** chosen, unsigned char* chosen_bytes,
                          const unsigned char* offered, unsigned offered_bytes, void*) {
    unsigned char* found = nullptr;
    const int result =
        SSL_select_next_proto(&found, chosen_bytes, kWireProtocol, kWireProtocolBytes, offered, offered_bytes);
    *chosen = found;
    if (result == OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_OK;
    of(ssl).refusal_ = refusal(Reason::wrong_protocol, "it offers others");
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
};

void Handshake::prepare(SSL_CTX* ctx) {
  SSL_CTX_set_tlsext_servername_callback(ctx, HandshakeCallbacks::on_name);
  SSL_CTX_set_alpn_select_cb(ctx, HandshakeCallbacks::on_protocols, nullptr);
}

std::unique_ptr<Handshake> Handshake::accept(std::shared_ptr<const Security> security, const Config& config, int fd,
                                             bool to_kernel) {
  std::unique_ptr<Handshake> handshake(new Handshake(std::move(security), &config, {}));
  if (!handshake->begin(handshake->security_->server.get(), fd, to_kernel)) return nullptr;
  SSL_set_accept_state(handshake->ssl());
  return handshake;
}

std::unique_ptr<Handshake> Handshake::connect(std::shared_ptr<const Security> security, const RemoteService& service,
                                              int fd, bool to_kernel) {
  std::unique_ptr<Handshake> handshake(new Handshake(std::move(security), nullptr, service.identity));
  handshake->service_name_ = service.name;
  if (!handshake->begin(handshake->security_->client.get(), fd, to_kernel) ||
      SSL_set_tlsext_host_name(handshake->ssl(), service.name.c_str()) != 1 ||
      SSL_set_alpn_protos(handshake->ssl(), kWireProtocol, kWireProtocolBytes) != 0)
    return nullptr;
  SSL_set_connect_state(handshake->ssl());
  return handshake;
}

bool Handshake::begin(SSL_CTX* ctx, int fd, bool to_kernel) {
  ssl_.reset(SSL_new(ctx));
  if (!ssl_ || SSL_set_ex_data(ssl_.get(), handshake_index(), this) != 1) return false;
  if (to_kernel && !ktls_prepare(ssl_.get())) return false;
  check_.watch(ssl_.get());
  return SSL_set_fd(ssl_.get(), fd) == 1;
}

bool Handshake::choose_service(const char* name) {
  if (!name) {
    refusal_ = gateway::refusal(Reason::no_service);
    return false;
  }
  service_name_ = name;
  service_ = config_->service(service_name_);
  if (service_ && service_->mode != ServiceMode::off) {
    check_.expect(service_->allow);
    return true;
  }
  refusal_ = gateway::refusal(service_ ? Reason::service_off : Reason::unknown_service, in_quotes(service_name_));
  return false;
}

Handshake::State Handshake::fail(Refusal refusal) {
  if (refusal_.reason.empty()) refusal_ = std::move(refusal);
  ERR_clear_error();
  return State::failed;
}

Handshake::State Handshake::advance() {
  ERR_clear_error();
  errno = 0;
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    const unsigned char* chosen = nullptr;
    unsigned chosen_bytes = 0;
    SSL_get0_alpn_selected(ssl_.get(), &chosen, &chosen_bytes);
    return chosen_bytes > 0 ? State::done : fail(gateway::refusal(Reason::wrong_protocol, "it offers none"));
  }
  const int system_error = errno;
  const int ssl_error = SSL_get_error(ssl_.get(), result);
  if (ssl_error == SSL_ERROR_WANT_READ) return State::wants_input;
  if (ssl_error == SSL_ERROR_WANT_WRITE) return State::wants_output;
  return fail(explain(ssl_error, system_error, ERR_peek_error()));
}

Refusal Handshake::explain(int ssl_error, int system_error, unsigned long code) const {
  if (const auto refusal = check_.refusal(code)) return {refusal->name(), refusal->detail};
  if (ssl_error == SSL_ERROR_SYSCALL || ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
    return gateway::refusal(Reason::peer_left, system_error ? std::strerror(system_error) : "");
  const char* text = ERR_reason_error_string(code);
  const std::string detail = text ? text : "";
  const int reason = ERR_GET_REASON(code);
  switch (reason) {
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_BAD_RECORD_TYPE:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
      return gateway::refusal(Reason::not_tls, detail);
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
      return gateway::refusal(Reason::wrong_version, detail);
    default:
      return gateway::refusal(reason >= SSL_AD_REASON_OFFSET ? Reason::refused_by_peer : Reason::handshake_failed,
                              detail);
  }
}

}  // namespace shunt::gateway
