#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <base/proxy_link.hpp>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

namespace shunt {
namespace {

using Json = nlohmann::json;

constexpr size_t kFdsMax = 2 * kLinkChannelsMax;
// Of one server: slot, generation, identity, port, whether a socket comes along, and the address.
constexpr size_t kServerNumbers = 9;
constexpr size_t kNumbersMax = kServerNumbers * kLinkServersMax;
static_assert(kNumbersMax >= kLinkChannelsMax);
constexpr off_t kBundleBytesMax = off_t{1} << 30;
constexpr int kSealAttempts = 20;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;

struct Wire {
  uint32_t kind;
  uint32_t numbers[kNumbersMax];
};

union ControlSpace {
  cmsghdr align;
  char bytes[CMSG_SPACE(kFdsMax * sizeof(int))];
};

void take_descriptors(msghdr& header, std::vector<UniqueFd>& fds) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
}

// The beginning of an item (RFC 8949, 3), as nlohmann reads it.
enum class Cbor : uint8_t { number = 0, text = 3, array = 4, map = 5 };

void begin_item(std::string& out, Cbor type, uint64_t argument) {
  constexpr uint8_t kFourBytesFollow = 26;
  const auto first = static_cast<uint8_t>(static_cast<uint8_t>(type) << 5);
  if (argument < 24) {
    out += static_cast<char>(first | argument);
    return;
  }
  out += static_cast<char>(first | kFourBytesFollow);
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(argument >> shift & 0xff);
}

void add_text(std::string& out, std::string_view text) {
  begin_item(out, Cbor::text, text.size());
  out += text;
}

}  // namespace

Result<void> send_link_message(int socket, LinkKind kind, const std::vector<uint32_t>& numbers,
                               const std::vector<int>& fds) {
  if (numbers.size() > kNumbersMax || fds.size() > kFdsMax) return unexpected(E2BIG, "a message of the proxy's link");
  Wire wire{static_cast<uint32_t>(kind), {}};
  std::copy(numbers.begin(), numbers.end(), wire.numbers);
  iovec part{&wire, sizeof(wire.kind) + numbers.size() * sizeof(uint32_t)};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  ControlSpace control{};
  if (!fds.empty()) {
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
  }
  if (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return unexpected(errno, "the proxy's link");
  return {};
}

Result<LinkMessage> receive_link_message(int socket) {
  Wire wire{};
  iovec part{&wire, sizeof(wire)};
  ControlSpace control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof(control.bytes);
  const ssize_t bytes = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  if (bytes < 0) return unexpected(errno, "the proxy's link");
  if (bytes == 0) return unexpected(ECONNRESET, "the proxy's link");
  LinkMessage message;
  take_descriptors(header, message.fds);
  const auto size = static_cast<size_t>(bytes);
  const bool whole = (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 && size % sizeof(uint32_t) == 0;
  if (!whole || wire.kind < static_cast<uint32_t>(LinkKind::hello) ||
      wire.kind > static_cast<uint32_t>(LinkKind::expiry))
    return unexpected(EPROTO, "the proxy's link");
  message.kind = static_cast<LinkKind>(wire.kind);
  message.numbers.assign(wire.numbers, wire.numbers + (size / sizeof(uint32_t) - 1));
  return message;
}

Result<UniqueFd> new_bundle() {
  UniqueFd memfd(memfd_create("shunt-policy", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memfd) return unexpected(errno, "cannot make a memfd");
  return memfd;
}

Result<void> seal_bundle(int memfd) {
  for (int attempt = 1; fcntl(memfd, F_ADD_SEALS, kSeals) != 0; attempt++) {
    if (errno != EBUSY || attempt == kSealAttempts) return unexpected(errno, "cannot seal a memfd");
    std::this_thread::sleep_for(std::chrono::milliseconds(attempt));  // somebody of the kernel's looks at a page
  }
  return {};
}

Result<void> send_link_servers(int socket, const std::vector<LinkServer>& servers) {
  for (size_t first = 0; first < servers.size(); first += kLinkServersMax) {
    std::vector<uint32_t> numbers;
    std::vector<int> fds;
    for (size_t i = first; i < std::min(first + kLinkServersMax, servers.size()); i++) {
      const LinkServer& server = servers[i];
      uint32_t words[4];
      memcpy(words, server.address.data(), sizeof(words));
      numbers.insert(numbers.end(), {server.slot, server.generation, server.identity, server.port, server.socket >= 0});
      numbers.insert(numbers.end(), std::begin(words), std::end(words));
      if (server.socket >= 0) fds.push_back(server.socket);
    }
    if (auto sent = send_link_message(socket, LinkKind::steer, numbers, fds); !sent) return sent;
  }
  return {};
}

Result<std::vector<LinkServer>> read_link_servers(const LinkMessage& message) {
  std::vector<LinkServer> servers;
  size_t fds = 0;
  if (message.numbers.size() % kServerNumbers != 0) return unexpected(EPROTO, "the proxy's link");
  for (auto at = message.numbers.begin(); at != message.numbers.end(); at += kServerNumbers) {
    LinkServer& server = servers.emplace_back();
    server.slot = at[0];
    server.generation = at[1];
    server.identity = at[2];
    server.port = static_cast<uint16_t>(at[3]);
    memcpy(server.address.data(), &at[5], server.address.size());
    if (at[4] == 0) continue;
    if (fds == message.fds.size()) return unexpected(EPROTO, "the proxy's link");
    server.socket = message.fds[fds++].get();
  }
  if (fds != message.fds.size()) return unexpected(EPROTO, "the proxy's link");
  return servers;
}

namespace {
Result<void> write_whole(int memfd, const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t written = write(memfd, bytes.data() + done, bytes.size() - done);
    if (written < 0) return unexpected(errno, "cannot write a memfd");
    done += static_cast<size_t>(written);
  }
  return {};
}
}  // namespace

// Each reload does this: a document of nlohmann's would be several copies of all texts.
Result<std::string> begin_bundle(const std::vector<TextSource>& sources) {
  constexpr size_t kHeadsMax = 16;
  size_t room = kHeadsMax;
  for (const TextSource& source : sources) room += kHeadsMax + source.name.size() + source.text.size();
  if (room > static_cast<size_t>(kBundleBytesMax))
    return unexpected(Error{E2BIG, "the policy's documents are larger than 1 GiB in all", "write fewer"});
  std::string bytes;
  bytes.reserve(room);
  begin_item(bytes, Cbor::map, 2);
  add_text(bytes, "sources");
  begin_item(bytes, Cbor::array, sources.size());
  for (const TextSource& source : sources) {
    begin_item(bytes, Cbor::array, 2);
    add_text(bytes, source.name);
    add_text(bytes, source.text);
  }
  return bytes;
}

// Written here, and not by whoever has put the texts together: pages that another CPU still has in its lists cannot be
// sealed (EBUSY).
Result<UniqueFd> end_bundle(std::string bytes, const std::vector<NamedIdentity>& identities) {
  add_text(bytes, "identities");
  begin_item(bytes, Cbor::array, identities.size());
  for (const NamedIdentity& identity : identities) {
    begin_item(bytes, Cbor::array, 2);
    begin_item(bytes, Cbor::number, identity.number);
    add_text(bytes, identity.title);
  }
  auto memfd = new_bundle();
  if (!memfd) return memfd;
  if (auto written = write_whole(memfd->get(), bytes); !written) return unexpected(written.error());
  if (auto sealed = seal_bundle(memfd->get()); !sealed) return unexpected(sealed.error());
  return memfd;
}

Result<PolicyBundle> open_bundle(int memfd) {
  const Error broken{EPROTO, "the policy that shuntd handed over is not readable", "restart both"};
  struct stat info {};
  if (fcntl(memfd, F_GET_SEALS) != kSeals || fstat(memfd, &info) != 0 || info.st_size > kBundleBytesMax)
    return unexpected(broken);
  std::vector<uint8_t> bytes(static_cast<size_t>(info.st_size));
  if (pread(memfd, bytes.data(), bytes.size(), 0) != info.st_size) return unexpected(broken);
  const Json document = Json::from_cbor(bytes, true, false);
  if (document.is_discarded()) return unexpected(broken);
  PolicyBundle bundle;
  try {
    for (const Json& source : document.at("sources"))
      bundle.sources.push_back({source.at(0).get<std::string>(), source.at(1).get<std::string>()});
    for (const Json& identity : document.at("identities"))
      bundle.identities.push_back({identity.at(0).get<uint32_t>(), identity.at(1).get<std::string>()});
  } catch (const Json::exception&) {
    return unexpected(broken);
  }
  return bundle;
}

Result<UniqueFd> connect_link(const std::string& path, LinkKind kind, const std::vector<uint32_t>& numbers,
                              const std::vector<int>& fds) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return unexpected(ENAMETOOLONG, path);
  path.copy(address.sun_path, path.size());
  UniqueFd fresh(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fresh || connect(fresh.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
    return unexpected(errno, "cannot reach shuntd at " + path, "start it");
  auto said = send_link_message(fresh.get(), kind, numbers, fds);
  if (!said) return unexpected(said.error());
  return fresh;
}

namespace {
std::string beside(const std::string& socket, const char* name) {
  return socket.substr(0, socket.rfind('/') + 1) + name;
}
}  // namespace

std::string proxy_socket_path(const std::string& control_socket) { return beside(control_socket, "proxy.sock"); }
std::string gateway_socket_path(const std::string& control_socket) { return beside(control_socket, "gateway.sock"); }

}  // namespace shunt
