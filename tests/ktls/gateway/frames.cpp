#include "ktls/gateway/frames.hpp"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>

#include <cstring>

namespace shunt::test {

std::optional<Flow> Frames::take(const uint8_t* frame, size_t bytes) {
  bytes_.append(reinterpret_cast<const char*>(frame), bytes);
  ether_header ethernet;
  iphdr ip;
  if (bytes < sizeof(ethernet) + sizeof(ip)) return {};
  std::memcpy(&ethernet, frame, sizeof(ethernet));
  std::memcpy(&ip, frame + sizeof(ethernet), sizeof(ip));
  if (ntohs(ethernet.ether_type) != ETHERTYPE_IP || ip.protocol != IPPROTO_TCP) return {};
  // Frames may be padded: the packet says how long it is.
  const size_t tcp_at = sizeof(ethernet) + ip.ihl * 4u, end = sizeof(ethernet) + ntohs(ip.tot_len);
  tcphdr tcp;
  if (tcp_at + sizeof(tcp) > bytes || end > bytes) return {};
  std::memcpy(&tcp, frame + tcp_at, sizeof(tcp));
  const Flow flow{ip.saddr, ip.daddr, ntohs(tcp.source), ntohs(tcp.dest)};
  Capture& capture = captures_[flow];
  if (tcp.syn) capture.first = ntohl(tcp.seq) + 1;
  const size_t data_at = tcp_at + tcp.doff * 4u;
  if (data_at >= end) return flow;
  std::string& part = capture.parts[ntohl(tcp.seq) - capture.first];
  if (part.size() < end - data_at) part.assign(reinterpret_cast<const char*>(frame) + data_at, end - data_at);
  return flow;
}

std::map<Flow, std::string> Frames::streams() const {
  std::map<Flow, std::string> streams;
  for (const auto& [flow, capture] : captures_) {
    std::string& stream = streams[flow];
    for (const auto& [at, part] : capture.parts) {
      if (at > stream.size()) break;  // never sent, or lost before the interface
      if (at + part.size() > stream.size()) stream.append(part, stream.size() - at);
    }
  }
  return streams;
}

}  // namespace shunt::test
