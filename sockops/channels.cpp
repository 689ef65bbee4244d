#include <arpa/inet.h>
#include <bpf/abi/punt.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <sockops/channels.hpp>
#include <sockops/namespaces.hpp>

namespace shunt {
namespace {

class Page {
 public:
  explicit Page(int map) {
    void* at = mmap(nullptr, sizeof(sh_punt_page), PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
    page_ = at == MAP_FAILED ? nullptr : static_cast<sh_punt_page*>(at);
  }
  ~Page() {
    if (page_ != nullptr) munmap(page_, sizeof(sh_punt_page));
  }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  explicit operator bool() const { return page_ != nullptr; }
  void stop_heart() { __atomic_store_n(&page_->heartbeat_ns, 0, __ATOMIC_RELEASE); }
  bool finished(uint32_t index, const sh_channel& channel) const {
    const uint64_t all = uint64_t{channel.epoch} << 32 | channel.punted;
    return __atomic_load_n(&page_->finished[index], __ATOMIC_ACQUIRE) == all;
  }

 private:
  sh_punt_page* page_;
};

sh_event client_of(const sh_channel& channel) {
  sh_event event = {};
  event.cookie = channel.ends.client;
  event.netns = channel.ends.netns;
  event.family = channel.ends.family;
  memcpy(event.local_addr, channel.ends.local_addr, sizeof(event.local_addr));
  memcpy(event.remote_addr, channel.ends.remote_addr, sizeof(event.remote_addr));
  event.local_port = channel.ends.local_port;
  event.remote_port = channel.ends.remote_port;
  return event;
}

void set_option(int socket, int level, int option, int value) {
  setsockopt(socket, level, option, &value, sizeof(value));
}

// A listener of which each pair is made, on a port of the kernel's choice. SO_RCVLOWAT keeps its connections from being
// enrolled as an application's.
class PairMaker {
 public:
  Result<void> open() {
    listener_.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address_);
    set_option(listener_.get(), SOL_SOCKET, SO_RCVLOWAT, 2);
    if (!listener_ || bind(listener_.get(), reinterpret_cast<sockaddr*>(&address_), length) != 0 ||
        listen(listener_.get(), 1) != 0 ||
        getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address_), &length) != 0)
      return unexpected(errno, "cannot listen for punt channels");
    return {};
  }

  // Anybody on the host may connect to the port: only the own connection is taken.
  Result<void> make(PuntChannel& channel) {
    channel.socket.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!channel.socket) return unexpected(errno, "cannot make a punt channel");
    set_option(channel.socket.get(), SOL_SOCKET, SO_RCVLOWAT, 2);
    if (connect(channel.socket.get(), reinterpret_cast<sockaddr*>(&address_), sizeof(address_)) != 0)
      return unexpected(errno, "cannot connect a punt channel");
    sockaddr_in own{}, peer{};
    socklen_t length = sizeof(own);
    if (getsockname(channel.socket.get(), reinterpret_cast<sockaddr*>(&own), &length) != 0)
      return unexpected(errno, "cannot make a punt channel");
    do {
      length = sizeof(peer);
      channel.other.reset(accept4(listener_.get(), reinterpret_cast<sockaddr*>(&peer), &length, SOCK_CLOEXEC));
      if (!channel.other) return unexpected(errno, "cannot accept a punt channel");
    } while (peer.sin_port != own.sin_port || peer.sin_addr.s_addr != own.sin_addr.s_addr);
    for (const int end : {channel.socket.get(), channel.other.get()}) {
      set_option(end, SOL_SOCKET, SO_RCVLOWAT, 1);
      set_option(end, IPPROTO_TCP, TCP_NODELAY, 1);
    }
    return {};
  }

 private:
  UniqueFd listener_;
  sockaddr_in address_{};
};

Result<void> put_in_force(const MapFinder& map, const PuntChannel& made, sh_channel channel) {
  const int fd = made.socket.get();
  const uint32_t number = made.index + 1;
  socklen_t length = sizeof(channel.cookie);
  if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &channel.cookie, &length) != 0) return unexpected(errno, "no cookie");
  if (bpf_map_update_elem(map("sh_channel_of"), &fd, &number, BPF_ANY) != 0)
    return unexpected(errno, "cannot mark a punt channel");
  const auto value = static_cast<uint64_t>(fd);
  if (bpf_map_update_elem(map("sh_socks"), &channel.cookie, &value, BPF_ANY) != 0)
    return unexpected(errno, "cannot put a punt channel into the socket map");
  if (bpf_map_update_elem(map("sh_channels"), &made.index, &channel, BPF_F_LOCK) != 0)
    return unexpected(errno, "cannot record a punt channel");
  return {};
}

}  // namespace

bool any_punt_channel(const MapFinder& map) {
  for (uint32_t index = 0; index < SH_CHANNELS_MAX; index++) {
    sh_channel channel = {};
    if (bpf_map_lookup_elem_flags(map("sh_channels"), &index, &channel, BPF_F_LOCK) == 0 && channel.cookie != 0)
      return true;
  }
  return false;
}

bool same_map(int a, int b) {
  bpf_map_info of_a = {}, of_b = {};
  uint32_t bytes_a = sizeof(of_a), bytes_b = sizeof(of_b);
  return bpf_obj_get_info_by_fd(a, &of_a, &bytes_a) == 0 && bpf_obj_get_info_by_fd(b, &of_b, &bytes_b) == 0 &&
         of_a.id == of_b.id;
}

// First nothing new can be bound. Then each client whose request is with the proxy is reset, which also releases its
// channel; what is left of a binding after that is forgotten.
Result<void> end_punt_channels(const MapFinder& map) {
  Page page(map("sh_punt_pages"));
  if (!page) return unexpected(errno, "cannot map the page of the punt channels");
  page.stop_heart();
  uint32_t index = 0;
  while (bpf_map_lookup_and_delete_elem(map("sh_idle_chans"), nullptr, &index) == 0) {
  }
  Result<void> done;
  for (index = 0; index < SH_CHANNELS_MAX; index++) {
    sh_channel channel = {};
    if (bpf_map_lookup_elem_flags(map("sh_channels"), &index, &channel, BPF_F_LOCK) != 0) continue;
    if (channel.epoch == 0 && channel.cookie == 0) continue;
    const bool owes = channel.ends.client != 0 && !page.finished(index, channel);
    if (owes)
      if (auto reset = reset_socket(client_of(channel)); !reset && done) done = reset;
    sh_channel ended = {};
    ended.epoch = channel.epoch;
    bpf_map_update_elem(map("sh_channels"), &index, &ended, BPF_F_LOCK);
  }
  while (bpf_map_lookup_and_delete_elem(map("sh_idle_chans"), nullptr, &index) == 0) {
  }
  return done;
}

Result<PuntChannels> make_punt_channels(const MapFinder& map, uint32_t count) {
  (void)end_punt_channels(map);  // a client that cannot be reset is no reason to have no proxy
  PuntChannels made;
  made.page.reset(fcntl(map("sh_punt_pages"), F_DUPFD_CLOEXEC, 0));
  if (!made.page) return unexpected(errno, "cannot hand out the page of the punt channels");
  PairMaker pairs;
  if (auto opened = pairs.open(); !opened) return unexpected(opened.error());
  for (uint32_t i = 0; i < std::min<uint32_t>(count, SH_CHANNELS_MAX); i++) {
    PuntChannel& channel = made.channels.emplace_back();
    channel.index = i;
    sh_channel before = {};
    if (bpf_map_lookup_elem_flags(map("sh_channels"), &i, &before, BPF_F_LOCK) != 0)
      return unexpected(errno, "cannot read a punt channel");
    if (auto paired = pairs.make(channel); !paired) return unexpected(paired.error());
    if (auto put = put_in_force(map, channel, before); !put) return unexpected(put.error());
  }
  for (const PuntChannel& channel : made.channels)
    if (bpf_map_update_elem(map("sh_idle_chans"), nullptr, &channel.index, BPF_ANY) != 0)
      return unexpected(errno, "cannot offer a punt channel");
  return made;
}

}  // namespace shunt
