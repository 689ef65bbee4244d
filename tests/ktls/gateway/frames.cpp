#include "ktls/gateway/frames.hpp"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>

#include <cstring>
#include <string_view>

namespace shunt::test {

namespace {

struct Segment {
  Flow flow;
  uint32_t seq = 0;
  bool syn = false;
  std::string_view data;
};

std::optional<Segment> parse(std::string_view frame) {
  ether_header ethernet;
  iphdr ip;
  if (frame.size() < sizeof(ethernet) + sizeof(ip)) return {};
  std::memcpy(&ethernet, frame.data(), sizeof(ethernet));
  std::memcpy(&ip, frame.data() + sizeof(ethernet), sizeof(ip));
  if (ntohs(ethernet.ether_type) != ETHERTYPE_IP || ip.protocol != IPPROTO_TCP) return {};
  // Frames may be padded: the packet says how long it is.
  const size_t tcp_at = sizeof(ethernet) + ip.ihl * 4u, end = sizeof(ethernet) + ntohs(ip.tot_len);
  tcphdr tcp;
  if (tcp_at + sizeof(tcp) > frame.size() || end > frame.size()) return {};
  std::memcpy(&tcp, frame.data() + tcp_at, sizeof(tcp));
  Segment segment{{ip.saddr, ip.daddr, ntohs(tcp.source), ntohs(tcp.dest)}, ntohl(tcp.seq), tcp.syn != 0, {}};
  const size_t data_at = tcp_at + tcp.doff * 4u;
  if (data_at < end) segment.data = frame.substr(data_at, end - data_at);
  return segment;
}

std::string_view text_of(const uint8_t* frame, size_t bytes) { return {reinterpret_cast<const char*>(frame), bytes}; }

}  // namespace

std::optional<Flow> flow_of(const uint8_t* frame, size_t bytes) {
  const auto segment = parse(text_of(frame, bytes));
  return segment ? std::optional(segment->flow) : std::nullopt;
}

void Frames::take(const uint8_t* frame, size_t bytes) {
  const std::string_view text = text_of(frame, bytes);
  saw_ = saw_ || text.find(wanted_) != std::string_view::npos;
  const auto segment = parse(text);
  if (!segment) return;
  std::vector<Capture>& captures = captures_[segment->flow];
  if (captures.empty() || (segment->syn && captures.back().first != segment->seq + 1)) captures.emplace_back();
  Capture& capture = captures.back();
  if (segment->syn) capture.first = segment->seq + 1;
  if (segment->data.empty()) return;
  std::string& part = capture.parts[segment->seq - capture.first];
  if (part.size() < segment->data.size()) part.assign(segment->data);
}

std::string Frames::stream_of(const Capture& capture) {
  std::string stream;
  for (const auto& [at, part] : capture.parts) {
    if (at > stream.size()) break;  // never sent, or lost before the interface
    if (at + part.size() > stream.size()) stream.append(part, stream.size() - at);
  }
  return stream;
}

void Frames::for_each_stream(const std::function<void(const Flow&, const std::string&)>& look) const {
  for (const auto& [flow, captures] : captures_) {
    for (const Capture& capture : captures) look(flow, stream_of(capture));
  }
}

}  // namespace shunt::test
