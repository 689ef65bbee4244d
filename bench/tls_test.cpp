// What `shunt bench tls` says of gateways: that wrong bytes, another cipher or none at all cannot pass for a figure.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <bench/channel.hpp>
#include <bench/report.hpp>
#include <bench/tls.hpp>
#include <set>
#include <thread>

namespace shunt::bench {
namespace {

// ---- the ends ----

// Stands between the ends of one run, as a gateway does, and may change one byte that goes to the client or to the
// server.
class Relay {
 public:
  enum class Fault { none, to_server, to_client, loses_end };
  static constexpr size_t kFaultAt = 40;

  Relay(uint16_t listen, uint16_t server, int connections, Fault fault) : fault_(fault) {
    auto made = listen_at({.port = listen});
    if (made) listener_ = std::move(*made);
    thread_ = std::thread([this, server, connections] {
      for (int i = 0; i < connections; i++) {
        auto client = accept_one(listener_.get());
        auto upstream = connect_to({.port = server});
        if (client && upstream)
          pumps_.emplace_back([this, c = std::move(*client), s = std::move(*upstream)] { pump(c, s); });
      }
    });
  }
  ~Relay() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
    for (std::thread& pump : pumps_) pump.join();
  }

 private:
  void pump(const UniqueFd& client, const UniqueFd& server) {
    size_t moved[2] = {0, 0};
    for (bool open[2] = {true, true}; open[0] || open[1];) {
      pollfd fds[2] = {{open[0] ? client.get() : -1, POLLIN, 0}, {open[1] ? server.get() : -1, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0) return;
      for (int i = 0; i < 2; i++) {
        if (open[i] && fds[i].revents) open[i] = move(fds[i].fd, i ? client.get() : server.get(), i == 0, &moved[i]);
      }
    }
  }
  bool move(int from, int to, bool to_server, size_t* moved) {
    char buffer[4096];
    const ssize_t got = recv(from, buffer, sizeof(buffer), 0);
    if (got <= 0) {
      shutdown(to, SHUT_WR);
      return false;
    }
    size_t bytes = size_t(got);
    const bool here = *moved <= kFaultAt && kFaultAt < *moved + bytes;
    if (here && fault_ == (to_server ? Fault::to_server : Fault::to_client)) buffer[kFaultAt - *moved] ^= 1;
    if (here && to_server && fault_ == Fault::loses_end) bytes--;
    *moved += size_t(got);
    return send(to, buffer, bytes, MSG_NOSIGNAL) == ssize_t(bytes);
  }

  Fault fault_;
  UniqueFd listener_;
  std::thread thread_;
  std::vector<std::thread> pumps_;
};

Sample run_through_relay(const Cell& cell, Relay::Fault fault) {
  RunSpec spec;
  spec.cell = cell;
  spec.seconds = 0.05;
  spec.port = *free_port();
  spec.dialled_port = *free_port();
  spec.greets = true;
  spec.cpu_of_client = spec.cpu_of_server = usable_cpus().front();
  Relay relay(spec.dialled_port, spec.port, cell.connections, fault);
  return run_cell(spec);
}

class EachTlsCell : public testing::TestWithParam<Cell> {};

TEST_P(EachTlsCell, RunsThroughWhoStandsBetween) {
  Sample sample = run_through_relay(GetParam(), Relay::Fault::none);
  EXPECT_EQ(sample.error, "");
  EXPECT_GT(sample.value, 0);
}

TEST_P(EachTlsCell, NoticesAChangedByte) {
  const bool stream = GetParam().kind == CellKind::one_way;
  Sample sample = run_through_relay(GetParam(), stream ? Relay::Fault::to_server : Relay::Fault::to_client);
  EXPECT_NE(sample.error.find("integrity:"), std::string::npos) << sample.error;
  EXPECT_EQ(sample.value, 0);
}

INSTANTIATE_TEST_SUITE_P(Tls, EachTlsCell, testing::ValuesIn(all_tls_cells(1)), [](const auto& param) {
  std::string name = tls_cell_name(param.param);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !isalnum(c); }, '_');
  return name;
});

TEST(TlsEnds, NoticeALostByteOfAStream) {
  Sample sample = run_through_relay({CellKind::one_way, 1u << 10}, Relay::Fault::loses_end);
  EXPECT_NE(sample.error.find("integrity:"), std::string::npos) << sample.error;
}

TEST(TlsEnds, NoticeAChangedRequest) {
  Sample sample = run_through_relay({CellKind::request, 1u << 10}, Relay::Fault::to_server);
  EXPECT_NE(sample.error.find("integrity:"), std::string::npos) << sample.error;
}

TEST(TlsCells, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const Cell& cell : all_tls_cells(1)) names.insert(tls_cell_name(cell));
  EXPECT_EQ(names.size(), all_tls_cells(1).size());
  for (const Cell& cell : all_cells(2)) EXPECT_EQ(names.count(cell.name()), 0u);
}

// ---- what crosses between the hosts ----

std::vector<unsigned char> packet_with(const std::vector<unsigned char>& payload) {
  std::vector<unsigned char> packet(20 + 32 + payload.size(), 0);
  packet[0] = 0x45;
  packet[20 + 12] = 0x80;  // a TCP header of 32 bytes
  std::copy(payload.begin(), payload.end(), packet.begin() + 20 + 32);
  return packet;
}

std::vector<unsigned char> server_hello(uint16_t suite, size_t session_bytes) {
  std::vector<unsigned char> hello = {0x16, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3};
  hello.insert(hello.end(), 32, 0xaa);
  hello.push_back(static_cast<unsigned char>(session_bytes));
  hello.insert(hello.end(), session_bytes, 0xbb);
  hello.insert(hello.end(), {static_cast<unsigned char>(suite >> 8), static_cast<unsigned char>(suite), 0, 0});
  return hello;
}

TEST(ServerHello, TellsTheSuite) {
  EXPECT_EQ(suite_of_server_hello(packet_with(server_hello(0x1301, 32))), 0x1301);
  EXPECT_EQ(suite_of_server_hello(packet_with(server_hello(0x1303, 0))), 0x1303);
}

TEST(ServerHello, IsNotTakenFromAnythingElse) {
  auto hello = server_hello(0x1301, 32);
  for (size_t bytes = 0; bytes < 11 + 32 + 1 + 32 + 2; bytes++) {
    EXPECT_EQ(suite_of_server_hello(packet_with({hello.begin(), hello.begin() + long(bytes)})), 0) << bytes;
  }
  hello[5] = 1;  // a ClientHello
  EXPECT_EQ(suite_of_server_hello(packet_with(hello)), 0);
  EXPECT_EQ(suite_of_server_hello({}), 0);
  EXPECT_EQ(suite_of_server_hello(std::vector<unsigned char>(19, 0x4f)), 0);
}

// ---- gateways ----

class TlsHosts : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "two hosts are made of network namespaces, which needs root";
  }
};

Json measured(const std::vector<const TlsVariant*>& variants) {
  TlsPlan plan;
  plan.cells = {{CellKind::one_way, 16u << 10}, {CellKind::request, 1u << 10, 1, 4}};
  plan.variants = variants;
  plan.rounds = 1;
  plan.seconds = 0.05;
  TlsRunner runner(plan, {});
  auto opened = runner.open();
  EXPECT_TRUE(opened) << opened.error().to_string();
  return runner.document(runner.run(), Json::object());
}

TEST_F(TlsHosts, EveryVariantThatIsThereIsMeasured) {
  std::vector<const TlsVariant*> there;
  for (const TlsVariant& variant : kTlsVariants) {
    if (variant.absent().empty()) there.push_back(&variant);
  }
  ASSERT_GE(there.size(), 4u) << "gateway-openssl, haproxy, nginx and plain are everywhere where the tests run";
  const Json document = measured(there);
  EXPECT_EQ(document.at("problems"), Json::array());
  EXPECT_EQ(failures(document), std::vector<std::string>());
  for (const Json& cell : document.at("cells")) {
    for (const TlsVariant* variant : there) {
      const Json& result = cell.at("variants").at(variant->name);
      EXPECT_GT(result.at("value"), 0) << cell.at("name") << " " << variant->name;
      EXPECT_GT(result.at("cost_per_message"), 0) << cell.at("name") << " " << variant->name;
      EXPECT_EQ(result.contains("gateway_cost_per_message"), variant->encrypts != nullptr) << variant->name;
    }
  }
}

// Two programs that forward what comes as it is.
Result<void> start_without_tls(RunningStack* stack, const StackContext& context, const TlsIdentities&) {
  const std::string log = context.folder + "/servers.log";
  for (bool to_mesh : {false, true}) {
    const uint16_t listen = to_mesh ? kTlsClientPort : kTlsGatewayPort,
                   next = to_mesh ? kTlsGatewayPort : kTlsServerPort;
    const std::string from = "TCP-LISTEN:" + std::to_string(listen) + ",fork,reuseaddr";
    const std::string to = std::string("TCP:") + (to_mesh ? kServerHost : "127.0.0.1") + ":" + std::to_string(next);
    Command command = in_context(context, {"socat", from, to}, stack->namespaces[to_mesh ? 0 : 1].get());
    if (auto started = start_server(stack, command, log); !started) return started;
  }
  return {};
}

TEST_F(TlsHosts, WhoDoesNotEncryptIsNotMeasured) {
  const TlsVariant blank = {"blank", "forwards plaintext",         "nobody, in truth",
                            false,   [] { return std::string(); }, start_without_tls};
  const Json document = measured({&blank});
  ASSERT_EQ(document.at("problems").size(), 1u);
  EXPECT_NE(document.at("problems")[0].get<std::string>().find("cipher suite between the hosts is 0x0000"),
            std::string::npos)
      << document.at("problems");
  for (const Json& cell : document.at("cells")) EXPECT_TRUE(cell.at("variants").empty());
}

TEST_F(TlsHosts, WhoEncryptsIsSeenAndNotBelieved) {
  TlsVariant pretender = kTlsVariants.front();
  pretender.by_kernel = true;
  const Json document = measured({&pretender});
  ASSERT_EQ(document.at("problems").size(), 1u);
  EXPECT_NE(document.at("problems")[0].get<std::string>().find("the kernel does not encrypt"), std::string::npos)
      << document.at("problems");
}

TEST_F(TlsHosts, GatewaysThatDoNotStartAreAProblem) {
  const TlsVariant broken = {"broken",
                             "ends at once",
                             "nobody",
                             false,
                             [] { return std::string(); },
                             [](RunningStack* stack, const StackContext& context, const TlsIdentities&) {
                               return start_server(stack, in_context(context, {"false"}),
                                                   context.folder + "/servers.log");
                             }};
  const Json document = measured({&broken});
  ASSERT_EQ(document.at("problems").size(), 1u);
  EXPECT_NE(document.at("problems")[0].get<std::string>().find("broken: a server ended"), std::string::npos)
      << document.at("problems");
}

// ---- the report ----

TEST(TlsReport, NamesWhatIsAbsentAndWhatFailed) {
  TlsPlan plan;
  Sample good, bad;
  good.value = 1000, good.gateway_cost_per_message = 12345, bad.error = "integrity: no";
  Series series = {"tls/request/1KiB/c1/1cpu", "request", "requests/s", 1, 1024, {"gateway-openssl", "haproxy"}, {}};
  series.samples["gateway-openssl"] = {good};
  series.samples["haproxy"] = {bad};
  const TlsRunner runner(plan, {});
  const Json document = runner.document({series}, {{"gateway-ktls", "this kernel has no kTLS"}});
  const std::string text = terminal_report(document);
  EXPECT_NE(text.find("ABSENT gateway-ktls: this kernel has no kTLS"), std::string::npos) << text;
  EXPECT_NE(text.find("FAILED"), std::string::npos) << text;
  EXPECT_NE(text.find("12345"), std::string::npos) << text;
  EXPECT_NE(text.find("ratio to gateway-openssl"), std::string::npos) << text;
  EXPECT_EQ(failures(document).size(), 1u);
  EXPECT_NE(html_report(document).find("ratio to gateway-openssl"), std::string::npos);
}

}  // namespace
}  // namespace shunt::bench
