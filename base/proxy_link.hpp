// What shuntd says to its fallback proxy and to its gateway, and they to it: messages with descriptors over a
// SOCK_SEQPACKET socket for each.
//
//   proxy  -> shuntd  hello     how many channels it wants; with the page of those it has, if it has any
//   shuntd -> proxy   keep      those go on
//   shuntd -> proxy   page      a new page: what it had is void
//   shuntd -> proxy   channels  their numbers; with two descriptors for each, the two ends of its connection
//   shuntd -> proxy   policy    its generation; with a sealed memfd of a PolicyBundle, if its texts are known
//   shuntd -> proxy   maps      with a descriptor: to read who is at the other end of a steered connection
//   shuntd -> proxy   steer     servers of which clients come to a listening socket of the proxy
//   shuntd -> proxy   unsteer   slots of servers that are not steered any more
//
// The policy comes again whenever it changes, and after it the servers, with their numbers in it.
//
//   gateway -> shuntd  gateway  its version
//   shuntd -> gateway  maps     with two descriptors: to write for whom a socket stands, and to read what was dialled
//   gateway -> shuntd  expiry   when its certificate expires, again after each rotation: what `shunt status` tells
//
// The link ends with its socket: shuntd then resets what the proxy had not finished, unless shuntd itself is gone.
#pragma once

#include <array>
#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <base/yaml_reader.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

inline constexpr uint32_t kProxyLinkVersion = 4;
inline constexpr uint32_t kGatewayLinkVersion = 2;
inline constexpr size_t kLinkChannelsMax = 100;  // in one message: a message carries 253 descriptors at most
inline constexpr size_t kLinkServersMax = 100;   // likewise

enum class LinkKind : uint32_t { hello = 1, keep, page, channels, policy, steer, unsteer, gateway, maps, expiry };

struct LinkMessage {
  LinkKind kind = LinkKind::hello;
  std::vector<uint32_t> numbers;  // hello: version and count; channels: theirs; policy: its generation;
                                  // steer: see LinkServer; unsteer: slots; expiry: seconds since 1970, upper half first
  std::vector<UniqueFd> fds;
};

// Does not wait: a peer that does not take its messages is an error (EAGAIN). `fds` stay the caller's.
Result<void> send_link_message(int socket, LinkKind kind, const std::vector<uint32_t>& numbers,
                               const std::vector<int>& fds);
// Waits if the socket does. EAGAIN: nothing is there; ECONNRESET: the peer has gone; EPROTO: it says something else.
Result<LinkMessage> receive_link_message(int socket);

// A server in a message `steer`: so many numbers, and a descriptor if the proxy has no socket for it yet.
struct LinkServer {
  uint32_t slot = 0;
  uint32_t generation = 0;  // of the policy ...
  uint32_t identity = 0;    // ... in which this is the server
  uint16_t port = 0;
  std::array<uint8_t, 16> address{};  // that it listens on; zero: any
  int socket = -1;                    // stays the caller's
};

Result<void> send_link_servers(int socket, const std::vector<LinkServer>& servers);
// EPROTO: it is no such message. Sockets are those of the message, which still owns them.
Result<std::vector<LinkServer>> read_link_servers(const LinkMessage& message);

// Who a number of the kernel side's tables is.
struct NamedIdentity {
  uint32_t number = 0;
  std::string title;  // as policy::find_identity() takes it
};

// The documents that are in force, as texts, so that both sides compile the same.
struct PolicyBundle {
  std::vector<TextSource> sources;
  std::vector<NamedIdentity> identities;
};

// A sealed memfd, in two steps: the identities may be found while the texts are put together.
Result<std::string> begin_bundle(const std::vector<TextSource>& sources);
Result<UniqueFd> end_bundle(std::string begun, const std::vector<NamedIdentity>& identities);
// The same for who has the bytes already.
Result<UniqueFd> new_bundle();
Result<void> seal_bundle(int memfd);
// Refuses what is not sealed: it could change while it is read.
Result<PolicyBundle> open_bundle(int memfd);

// A link to who listens at `path`, by what it says first.
Result<UniqueFd> connect_link(const std::string& path, LinkKind kind, const std::vector<uint32_t>& numbers,
                              const std::vector<int>& fds);

// The sockets beside the daemon's control socket.
std::string proxy_socket_path(const std::string& control_socket);
std::string gateway_socket_path(const std::string& control_socket);

}  // namespace shunt
