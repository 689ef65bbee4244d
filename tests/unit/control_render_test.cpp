#include <gtest/gtest.h>

#include <base/address.hpp>
#include <control/render.hpp>
#include <cstring>

namespace shunt {
namespace {

const Style kPlain(false);

Json row(uint64_t cookie, uint64_t peer, uint32_t flags, uint64_t bytes) {
  Row made{};
  sh_sock& sock = made.raw.sock;
  sock.shared.cookie = cookie;
  sock.peer_cookie = peer;
  sock.flags = flags;
  sock.fast_bytes = bytes;
  sock.state = SH_STATE_FAST;
  const Address loopback = *parse_address("127.0.0.1");
  memcpy(sock.local_addr, loopback.data(), loopback.size());
  memcpy(sock.remote_addr, loopback.data(), loopback.size());
  sock.local_port = static_cast<uint16_t>(1000 + cookie);
  sock.remote_port = static_cast<uint16_t>(1000 + peer);
  return row_document(made);
}

TEST(Render, Units) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.0 KiB");
  EXPECT_EQ(human_bytes(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(human_bytes(UINT64_MAX), "16.0 EiB");
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(1234567), "1,234,567");
  EXPECT_EQ(human_seconds(59.9), "59s");
  EXPECT_EQ(human_seconds(3700), "1h 1m");
}

TEST(Render, TablesAreAligned) {
  Table table({{"A"}, {"B", Table::Align::right}, {"C"}});
  table.add({"x", "1", "long text"});
  table.add({"é…x", "1000", ""});
  EXPECT_EQ(table.text(kPlain), "A       B  C\nx       1  long text\né…x  1000\n");
}

TEST(Render, TheEndsOfAPairStandTogetherAndBusyPairsFirst) {
  const std::string text = render_list(
      {row(1, 2, 0, 0), row(3, 4, 0, 5), row(4, 3, SH_SOCK_ACTIVE, 5), row(2, 1, SH_SOCK_ACTIVE, 0)}, 4, kPlain);
  const size_t positions[] = {
      text.find("127.0.0.1:1004  127.0.0.1:1003  client"), text.find("127.0.0.1:1003  127.0.0.1:1004  server"),
      text.find("127.0.0.1:1002  127.0.0.1:1001  client"), text.find("127.0.0.1:1001  127.0.0.1:1002  server")};
  for (size_t i = 0; i + 1 < std::size(positions); i++) EXPECT_LT(positions[i], positions[i + 1]) << text;
  EXPECT_NE(positions[3], std::string::npos);
}

TEST(Render, SaysWhatIsNotShown) {
  EXPECT_NE(render_list({row(1, 2, 0, 0)}, 10, kPlain).find("1 of 10 sockets shown"), std::string::npos);
  EXPECT_EQ(render_list({}, 0, kPlain), "no enrolled sockets\n");
}

TEST(Render, NamesOfProcessesCannotMoveTheCursor) {
  WhyRow why{.local = "a", .remote = "b", .program = "x\033[2J", .tgid = 1, .detail = "d\n"};
  const std::string text = render_why(Json{{"connections", Json::array({why_document(why)})}, {"total", 1}}, kPlain);
  EXPECT_EQ(text.find('\033'), std::string::npos);
  EXPECT_EQ(text, "a -> b  x?[2J (pid 1)\n  not accelerated: d?\n");
}

TEST(Render, StatusOfADeadDaemonSaysSo) {
  Snapshot snapshot;
  snapshot.status.mode = SH_MODE_ON;
  const std::string text = render_status(status_document(snapshot), kPlain);
  EXPECT_NE(text.find("shuntd is not running"), std::string::npos);
}

TEST(Render, KeptSocketsAreListed) {
  DrainReport report;
  report.left = 2;
  EXPECT_EQ(render_drain(drain_document(report), false, kPlain), "2 sockets went back to TCP; shunt is off\n");
  report.closed = 1;
  EXPECT_EQ(render_drain(drain_document(report), true, kPlain),
            "2 sockets went back to TCP; 1 that both ends have closed stay until their programs close them\n");
  report.kept.emplace_back();
  EXPECT_NE(render_drain(drain_document(report), false, kPlain).find("LOCAL"), std::string::npos);
}

TEST(Render, APolicyAndItsWorkloads) {
  Json status{{"mode", "on"}, {"policy", {{"generation", 0}}}};
  EXPECT_NE(render_status(status, kPlain).find("policy         none in force"), std::string::npos);
  status["policy"] = {{"generation", 3}, {"policies", 2}, {"workloads", 5}, {"workloads_missing", 1}, {"sets", 4}};
  EXPECT_NE(render_status(status, kPlain)
                .find("generation 3: 2 policies, 5 workloads (1 not there now), 4 sets of http rules"),
            std::string::npos);
  Json policy = status["policy"];
  policy.update(Json{{"directory", "/p"}, {"existing", "reset"}, {"known", true}, {"error", "a.yaml:3:1: bad"}});
  policy["places"] = Json::array({Json{{"workload", "default/web\033[2J"},
                                       {"identity", 256},
                                       {"found", false},
                                       {"cgroup", "/system.slice/web.service"},
                                       {"note", "no cgroup now"}}});
  policy.update(
      Json{{"rules", {{{"rule", "p.yaml:7\033[2J"}, {"hits", 12'345}}}}, {"rules_total", 2}, {"hits_of_no_rule", 6}});
  const std::string text = render_policy(policy, kPlain);
  EXPECT_NE(text.find("12,345  p.yaml:7"), std::string::npos) << text;
  EXPECT_NE(text.find("     6  (no single rule)\n1 of 2 rules shown"), std::string::npos) << text;
  EXPECT_NE(text.find("a.yaml:3:1: bad"), std::string::npos);
  EXPECT_NE(text.find("no     /system.slice/web.service  no cgroup now"), std::string::npos) << text;
  EXPECT_NE(text.find("1 of 5 workloads shown"), std::string::npos);
  EXPECT_EQ(text.find('\033'), std::string::npos);
}

TEST(Render, ATraceShowsWhoAndWhatDecides) {
  const Json trace{
      {"generation", 3},
      {"verdict", "denied"},
      {"by", "kernel"},
      {"request", "GET /\033[2J"},
      {"port", 80},
      {"from", {{"name", "default/shop"}, {"identity", 257}, {"pid", 42}, {"program", "curl"}, {"uid", 0}}},
      {"to", {{"name", "default/web"}, {"identity", 256}, {"local", "127.0.0.1:80"}, {"cgroup", "/web"}}},
      {"egress", {{"subject", "default/shop"}, {"verdict", "allowed"}, {"text", "nobody asks"}}},
      {"ingress",
       {{"subject", "default/web"},
        {"verdict", "denied"},
        {"text", "no http rule matches the request"},
        {"entry", {{"peer", "any"}, {"port", 80}, {"table", 4}, {"set", 2}}},
        {"rules", {"CiliumNetworkPolicy default/p (p.yaml:7)"}}}}};
  EXPECT_EQ(render_trace(trace, kPlain),
            "from default/shop (identity 257), curl[42], uid 0\n"
            "to   default/web (identity 256), 127.0.0.1:80, /web, port 80\n"
            "GET /?[2J\n"
            "denied by the kernel, policy generation 3\n"
            "  egress of default/shop: allowed: nobody asks\n"
            "  ingress of default/web: denied: no http rule matches the request\n"
            "    table 4: peer any, ports from 80, set 2\n"
            "    CiliumNetworkPolicy default/p (p.yaml:7)\n");
}

TEST(Render, APolicysEventSaysWhoAndWhy) {
  sh_event event{};
  event.kind = SH_EV_REQUEST_DENIED;
  Json document = event_document(event);
  document.update(Json{{"verdict", "denied"},
                       {"policy_reason", "no-matching-rule"},
                       {"policy_text", "no http rule matches the request"},
                       {"client", "default/shop"},
                       {"server", "default/web"},
                       {"rules", {"CiliumNetworkPolicy default/p spec.ingress[0] (p.yaml:7)"}}});
  const std::string text = render_event(document, kPlain);
  EXPECT_NE(text.find(" denied "), std::string::npos) << text;
  EXPECT_NE(text.find("default/shop -> default/web: no-matching-rule: no http rule matches the request\n"
                      "    CiliumNetworkPolicy default/p spec.ingress[0] (p.yaml:7)\n"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace shunt
