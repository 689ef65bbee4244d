// Pairs of TLS gateways between two hosts: ours, with the keys in the kernel or with OpenSSL in userspace, and others.
// All are to do the same: carry connections over mutual TLS 1.3 with one cipher, one thread a host.
#pragma once

#include <base/result.hpp>
#include <bench/servers.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace shunt::bench {

inline constexpr const char* kTlsCipher = "TLS_AES_128_GCM_SHA256";
inline constexpr uint16_t kTlsCipherSuite = 0x1301;
inline constexpr uint16_t kTlsServerPort = 8080;    // of the server, on its host
inline constexpr uint16_t kTlsGatewayPort = 15443;  // of the gateway on the server's host
inline constexpr uint16_t kTlsClientPort = 18001;   // of the gateway on the client's host

// Certificates of a CA of the harness' own, for both hosts.
struct TlsIdentities {
  std::string client_folder;
  std::string server_folder;
};
Result<TlsIdentities> make_tls_identities(const std::string& folder);

struct TlsVariant {
  const char* name;
  const char* text;
  const char* encrypts;  // who does; null: nobody, and there are no gateways
  bool by_kernel;
  // Why it cannot be measured on this machine; empty: it can.
  std::string (*absent)();
  // Starts both gateways in the stack's namespaces.
  Result<void> (*start)(RunningStack* stack, const StackContext& context, const TlsIdentities& identities);
};
// The first is what the others are compared with.
extern const std::vector<TlsVariant> kTlsVariants;

// Hears what arrives at a host, to find in it what a TLS server chose.
class ServerHelloListener {
 public:
  static Result<ServerHelloListener> open(int netns_fd);
  // Of the first ServerHello since open(); 0: none was seen.
  uint16_t suite();

 private:
  explicit ServerHelloListener(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
  uint16_t suite_ = 0;
};

// TLS connections that the kernel has encrypted in a network namespace up to now; 0 also where it has no TLS.
uint64_t kernel_tls_connections(int netns_fd);

// The cipher suite in an IPv4 packet that begins with a ServerHello; 0: it does not.
uint16_t suite_of_server_hello(const std::vector<unsigned char>& packet);

}  // namespace shunt::bench
