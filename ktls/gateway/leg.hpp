// One of the two connections of a link, as the pump sees it: bytes in and out, and an end of each direction.
#pragma once

#include <ktls/gateway/handshake.hpp>

namespace shunt::gateway {

// No call waits. A failure is final; its reason is one of ktls/reasons.hpp. `into` has room for a record of TLS, so
// that nothing is received and held back, of which poll() would not tell.
class Leg {
 public:
  virtual ~Leg() = default;
  virtual KtlsIoResult receive(std::span<uint8_t> into) = 0;
  virtual KtlsIoResult send(std::span<const uint8_t> bytes) = 0;
  virtual KtlsIoResult end_sending() = 0;  // `data`: done; else to be called again
  virtual int fd() const = 0;
  // Does receiving wait for room to send?
  virtual bool receiving_wants_output() const { return false; }
};

// Plain TCP.
std::unique_ptr<Leg> plain_leg(UniqueFd fd);

// Records by the kernel.
std::unique_ptr<Leg> ktls_leg(KtlsSocket socket);

// Records by OpenSSL; the handshake is done.
std::unique_ptr<Leg> openssl_leg(std::unique_ptr<Handshake> handshake, UniqueFd fd);

}  // namespace shunt::gateway
