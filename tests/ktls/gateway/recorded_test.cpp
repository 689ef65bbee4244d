// What two guests have said to each other (tests/vm/two_guests.py), as it was recorded outside of both. The file is
// SHUNT_TEST_RECORDED; on the port SHUNT_TEST_PLAIN_PORT they spoke in plain, so that it is known to be seen; the mesh
// carried SHUNT_TEST_MESH_BYTES at least.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <net/ethernet.h>
#include <pcap/pcap.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "ktls/gateway/frames.hpp"
#include "ktls/gateway/lab.hpp"
#include "ktls/sessions.hpp"

namespace shunt::test {

namespace {

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  if (!value) die(std::string(name) + " is not set");
  return value;
}

bool is_of(const Flow& flow, uint16_t port) { return flow.from_port == port || flow.to_port == port; }

std::string name_of(const Flow& flow) { return std::to_string(flow.from_port) + " to " + std::to_string(flow.to_port); }

struct Recording {
  uint16_t plain_port = static_cast<uint16_t>(std::stoul(setting("SHUNT_TEST_PLAIN_PORT")));
  Frames plain{kMarker}, others{kMarker};
  size_t strange = 0;  // neither TCP over IPv4 nor ARP

  static const Recording& get() {
    static const Recording recording;
    return recording;
  }

 private:
  Recording() {
    const std::string file = setting("SHUNT_TEST_RECORDED");
    char error[PCAP_ERRBUF_SIZE] = {};
    const std::unique_ptr<pcap_t, decltype(&pcap_close)> source(pcap_open_offline(file.c_str(), error), pcap_close);
    if (!source || pcap_datalink(source.get()) != DLT_EN10MB) die("read " + file + ": " + error);
    pcap_pkthdr* head = nullptr;
    const uint8_t* frame = nullptr;
    int got;
    while ((got = pcap_next_ex(source.get(), &head, &frame)) == 1) {
      require(head->caplen == head->len, "find whole frames");
      take(frame, head->caplen);
    }
    if (got != PCAP_ERROR_BREAK) die("read " + file + ": " + pcap_geterr(source.get()));
  }

  void take(const uint8_t* frame, size_t bytes) {
    const auto flow = flow_of(frame, bytes);
    (flow && is_of(*flow, plain_port) ? plain : others).take(frame, bytes);
    ether_header ethernet{};
    std::memcpy(&ethernet, frame, std::min(bytes, sizeof(ethernet)));
    strange += !flow && ntohs(ethernet.ether_type) != ETHERTYPE_ARP;
  }
};

// What the others rest on.
TEST(Recorded, WhatIsPlainIsSeen) {
  EXPECT_TRUE(Recording::get().plain.saw());
  size_t plain = 0;
  Recording::get().plain.for_each_stream(
      [&](const Flow&, const std::string& stream) { plain += !wire_complaint(stream, true).empty(); });
  EXPECT_EQ(plain, 2u);
}

TEST(Recorded, TheMeshCarriesRecordsAlone) {
  size_t bytes = 0, wanted = std::stoul(setting("SHUNT_TEST_MESH_BYTES"));
  Recording::get().others.for_each_stream([&](const Flow& flow, const std::string& stream) {
    if (!is_of(flow, kMeshPort)) return;
    EXPECT_EQ(wire_complaint(stream, true), "") << name_of(flow);
    bytes += stream.size();
  });
  EXPECT_GE(bytes, wanted);
}

TEST(Recorded, NothingElseCrosses) {
  EXPECT_EQ(Recording::get().strange, 0u);
  EXPECT_FALSE(Recording::get().others.saw()) << "the marker is on the wire";
  Recording::get().others.for_each_stream([](const Flow& flow, const std::string& stream) {
    EXPECT_TRUE(is_of(flow, kMeshPort) || stream.empty()) << name_of(flow) << ": " << stream.substr(0, 100);
  });
}

}  // namespace

}  // namespace shunt::test
