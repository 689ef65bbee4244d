#include "ktls/gateway/recorder.hpp"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

#include <utility>
#include <vector>

namespace shunt::test {

namespace {

constexpr int kBufferBytes = 64 << 20;
constexpr size_t kFrameBytesMax = 128 << 10;  // segmentation is left to hardware that is not there

}  // namespace

Recorder::Recorder(const NetNs& ns, const std::string& interface, std::string wanted) : frames_(std::move(wanted)) {
  ns.run([&] {
    socket_.reset(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    require(socket_.valid(), "make a packet socket");
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(if_nametoindex(interface.c_str()));
    require(setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kBufferBytes, sizeof(kBufferBytes)) == 0 &&
                bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0,
            "record " + interface);
  });
  thread_ = std::thread([this] { run(); });
}

Recorder::~Recorder() { stop(); }

void Recorder::stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  thread_.join();
  tpacket_stats stats{};
  socklen_t size = sizeof(stats);
  require(getsockopt(socket_.get(), SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0, "ask for lost frames");
  require(stats.tp_drops == 0, "record all frames");
}

// After stop() until nothing is left to be read.
void Recorder::run() {
  std::vector<uint8_t> frame(kFrameBytesMax);
  for (;;) {
    const bool last = stopping_;
    pollfd waiting{socket_.get(), POLLIN, 0};
    if (poll(&waiting, 1, 20) <= 0) {
      if (last) return;
      continue;
    }
    const ssize_t n = recv(socket_.get(), frame.data(), frame.size(), MSG_TRUNC | MSG_DONTWAIT);
    if (n < 0) continue;
    require(static_cast<size_t>(n) <= frame.size(), "record a frame as a whole");
    frames_.take(frame.data(), static_cast<size_t>(n));
  }
}

}  // namespace shunt::test
