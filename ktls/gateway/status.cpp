#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <ktls/gateway/gateway.hpp>
#include <ktls/gateway/status.hpp>
#include <nlohmann/json.hpp>

namespace shunt::gateway {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kBacklog = 16;
constexpr timeval kReaderPatience{5, 0};

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return unexpected(ENAMETOOLONG, path);
  path.copy(address.sun_path, path.size());
  return address;
}

const char* use_name(KtlsUse use) {
  return use == KtlsUse::required ? "required" : use == KtlsUse::preferred ? "preferred" : "off";
}

Json probe_document(const KtlsProbeReport& probe) {
  Json items = Json::object();
  for (const ProbeItem& item : probe.items) items[item.name] = item.found;
  return items;
}

}  // namespace

std::string status_document(const Shared& shared) {
  const auto security = shared.security.get();
  const Counters& counters = shared.counters;
  Json reasons = Json::object();
  for (const auto& [reason, count] : counters.reasons()) reasons[reason] = count;
  const Json document{{"version", SHUNT_VERSION},
                      {"mode", shared.mode()},
                      {"ktls", use_name(shared.config.ktls)},
                      {"probe", probe_document(shared.probe)},
                      {"identity", security->id.text()},
                      {"expires", security->expires},
                      {"serial", security->serial},
                      {"rotations", counters.rotations.load()},
                      {"connections", counters.connections.load()},
                      {"handshakes", counters.handshakes.load()},
                      {"from_mesh", counters.from_mesh.load()},
                      {"to_mesh", counters.to_mesh.load()},
                      {"received_bytes", counters.received_bytes.load()},
                      {"sent_bytes", counters.sent_bytes.load()},
                      {"reasons", reasons},
                      {"log_lines_lost", shared.access_log.lost()}};
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

StatusSocket::~StatusSocket() {
  if (socket_) ::unlink(path_.c_str());
}

Result<void> StatusSocket::open(const std::string& path) {
  if (path.empty()) return {};
  const auto address = unix_address(path);
  if (!address) return unexpected(address.error());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return unexpected(errno, "cannot make a socket");
  // Of one that crashed: the ports of the configuration would not be free otherwise.
  ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0 ||
      ::chmod(path.c_str(), 0660) != 0 || ::listen(fd.get(), kBacklog) != 0)
    return unexpected(errno, "cannot listen on " + path, "create its folder, or name another one: status:");
  path_ = path;
  socket_ = std::move(fd);
  return {};
}

Result<void> StatusSocket::serve(EventLoop& loop, const Shared& shared) {
  if (!socket_) return {};
  return loop.add(socket_.get(), EPOLLIN, [this, &shared](uint32_t) {
    const UniqueFd client(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client) return;
    const std::string document = status_document(shared);
    // It fits into the buffer of a socket that was never used.
    (void)::send(client.get(), document.data(), document.size(), MSG_NOSIGNAL);
  });
}

Result<std::string> read_status(const std::string& socket) {
  const auto address = unix_address(socket);
  if (!address) return unexpected(address.error());
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kReaderPatience, sizeof(kReaderPatience));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0)
    return unexpected(errno, "no gateway answers on " + socket, "is it running, with this configuration?");
  std::string document;
  char part[4096];
  ssize_t got;
  while ((got = ::recv(fd.get(), part, sizeof(part), 0)) > 0) document.append(part, static_cast<size_t>(got));
  if (got < 0) return unexpected(errno, "the gateway on " + socket);
  return document;
}

}  // namespace shunt::gateway
