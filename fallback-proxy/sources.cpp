#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include <base/printable.hpp>
#include <cstdlib>
#include <fallback-proxy/sources.hpp>
#include <map>

namespace shunt::proxy {
namespace {

// By name; several sockets may have one.
Result<std::multimap<std::string, UniqueFd>> passed_sockets() {
  std::multimap<std::string, UniqueFd> passed;
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(1, &names);
  if (count < 0) return unexpected(count, "cannot take the passed descriptors");
  for (int i = 0; i < count; i++) {
    const int fd = SD_LISTEN_FDS_START + i;
    passed.emplace(names[i], UniqueFd(fd));
    free(names[i]);
  }
  free(names);
  for (const auto& [name, fd] : passed) {
    if (sd_is_socket(fd.get(), AF_UNSPEC, SOCK_STREAM, 1) <= 0 || sd_is_socket(fd.get(), AF_UNIX, 0, -1) > 0)
      return unexpected(
          Error{EINVAL, "the passed descriptor " + in_quotes(name) + " is not a listening TCP socket", {}});
  }
  return passed;
}

}  // namespace

Result<std::vector<ListeningSocket>> open_sources(const Config& config) {
  std::vector<ListeningSocket> sockets;
  auto passed = passed_sockets();
  if (!passed) return unexpected(passed.error());
  for (size_t i = 0; i < config.listeners.size(); i++) {
    for (const Endpoint& endpoint : config.listeners[i].listen) {
      auto socket = listen_on(endpoint);
      if (!socket) return unexpected(socket.error());
      sockets.push_back({std::move(*socket), i});
    }
    for (const std::string& name : config.listeners[i].descriptors) {
      const auto [first, last] = passed->equal_range(name);
      if (first == last) {
        return unexpected(Error{ENOENT, "no descriptor was passed under the name " + in_quotes(name),
                                "see FileDescriptorName= of the socket unit"});
      }
      for (auto it = first; it != last; ++it) sockets.push_back({std::move(it->second), i});
      passed->erase(first, last);
    }
  }
  if (passed->empty()) return sockets;
  return unexpected(Error{EINVAL, "no listener takes the passed descriptor " + in_quotes(passed->begin()->first),
                          "name it in descriptors: of one"});
}

bool same_sources(const Config& a, const Config& b) {
  const auto same_endpoint = [](const Endpoint& x, const Endpoint& y) {
    return x.address == y.address && x.port == y.port;
  };
  return a.metrics_listen == b.metrics_listen &&
         std::equal(a.listeners.begin(), a.listeners.end(), b.listeners.begin(), b.listeners.end(),
                    [&](const Listener& x, const Listener& y) {
                      return x.descriptors == y.descriptors &&
                             std::equal(x.listen.begin(), x.listen.end(), y.listen.begin(), y.listen.end(),
                                        same_endpoint);
                    });
}

}  // namespace shunt::proxy
