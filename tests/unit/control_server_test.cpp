#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <base/metrics_server.hpp>
#include <control/control_server.hpp>
#include <string>

namespace shunt {
namespace {

class ScriptedBackend : public ControlBackend {
 public:
  Result<Json> status() override { return Json{{"mode", "on"}}; }
  Result<SharedRows> rows() override { return rows_; }
  Result<std::vector<WhyRow>> why(const WhyQuery&) override { return std::vector<WhyRow>(2000); }
  Result<Json> check() override { return Json::object(); }
  Result<Json> version() override { return Json{{"version", "v"}}; }
  Result<Json> turn_on() override { return changed("on"); }
  Result<void> turn_off(std::chrono::milliseconds deadline) override {
    changes_.push_back("off " + std::to_string(deadline.count()));
    return {};
  }
  Result<uint64_t> reload() override { return reload_number_; }
  Result<Json> policy() override { return Json{{"generation", 3}}; }
  Result<Json> trace(const TraceQuery& query) override { return Json{{"from", query.from}, {"to", query.to}}; }
  void describe(const sh_event& event, Json& document) override { document["verdict"] = event.l7_reason; }
  void monitors_changed(size_t count) override { monitors_ = count; }

  Result<Json> changed(const char* what) {
    changes_.emplace_back(what);
    return Json::object();
  }

  SharedRows rows_ = std::make_shared<const std::vector<Row>>();
  std::vector<std::string> changes_;
  size_t monitors_ = 0;
  Result<uint64_t> reload_number_ = unexpected(Error{EINVAL, "bad file", "mend it"});
};

class Client {
 public:
  explicit Client(UniqueFd fd) : fd_(std::move(fd)) {}
  void say(const std::string& text) {
    ASSERT_EQ(send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  bool take() {  // false: closed by the server
    char bytes[65536];
    const ssize_t count = recv(fd_.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    if (count > 0) heard.append(bytes, static_cast<size_t>(count));
    return count != 0;
  }
  void hang_up() { fd_.reset(); }
  void finish_sending() { shutdown(fd_.get(), SHUT_WR); }
  std::vector<Json> lines() {
    std::vector<Json> documents;
    size_t begin = 0;
    for (size_t end = heard.find('\n'); end != std::string::npos; end = heard.find('\n', begin)) {
      documents.push_back(Json::parse(heard.substr(begin, end - begin)));
      begin = end + 1;
    }
    heard.erase(0, begin);
    return documents;
  }
  std::string heard;

 private:
  UniqueFd fd_;
};

class ControlServerTest : public ::testing::Test {
 protected:
  ControlServerTest() : loop_(std::move(*EventLoop::create())), server_(*loop_, backend_) {}

  Client client() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    EXPECT_TRUE(server_.adopt(UniqueFd(fds[0])));
    return Client(UniqueFd(fds[1]));
  }
  // Lets the server and the client run until neither does anything more.
  bool turn(Client& client, int rounds = 50) {
    bool open = true;
    for (int i = 0; i < rounds; i++) {
      EXPECT_TRUE(loop_->run_once(0));
      open = client.take() && open;
    }
    return open;
  }
  Json ask(Client& client, const std::string& line) {
    client.say(line + "\n");
    turn(client);
    const std::vector<Json> lines = client.lines();
    EXPECT_FALSE(lines.empty()) << line;
    return lines.empty() ? Json() : lines.back();
  }

  ScriptedBackend backend_;
  std::unique_ptr<EventLoop> loop_;
  ControlServer server_;
};

sh_event event_of(uint32_t kind) {
  sh_event event{};
  event.kind = kind;
  return event;
}

TEST_F(ControlServerTest, AnswersOneRequestAfterAnother) {
  Client one = client();
  EXPECT_EQ(ask(one, R"({"cmd":"status"})")["data"]["mode"], "on");
  one.say("{\"cmd\":\"version\"}\n{\"cmd\":\"status\"}\n{\"cmd\":\"ver");
  turn(one);
  EXPECT_EQ(one.lines().size(), 2u);
  EXPECT_EQ(ask(one, "sion\"}")["data"]["version"], "v");
}

TEST_F(ControlServerTest, SaysWhatIsWrongAndGoesOn) {
  Client one = client();
  const Json refused = ask(one, "nonsense");
  EXPECT_EQ(refused["ok"], false);
  EXPECT_EQ(refused["exit"], static_cast<int>(ExitCode::usage));
  const Json failed = ask(one, R"({"cmd":"reload"})");
  EXPECT_EQ(failed["message"], "bad file");
  EXPECT_EQ(failed["exit"], static_cast<int>(ExitCode::usage));
  EXPECT_EQ(ask(one, R"({"cmd":"status"})")["ok"], true);
}

TEST_F(ControlServerTest, AReloadIsAnsweredWhenItHasEnded) {
  Client first = client(), second = client(), third = client();
  backend_.reload_number_ = 1;
  first.say("{\"cmd\":\"reload\"}\n{\"cmd\":\"version\"}\n");
  turn(first);
  backend_.reload_number_ = 2;
  second.say("{\"cmd\":\"reload\"}\n");
  turn(second);
  EXPECT_EQ(ask(third, R"({"cmd":"status"})")["data"]["mode"], "on");
  EXPECT_TRUE(first.lines().empty());
  server_.reload_finished(1, Json{{"files", 7}});
  turn(first);
  turn(second);
  const std::vector<Json> lines = first.lines();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["data"]["files"], 7);
  EXPECT_EQ(lines[1]["data"]["version"], "v");
  EXPECT_TRUE(second.lines().empty());
  server_.reload_finished(2, unexpected(Error{EINVAL, "bad file", "mend it"}));
  turn(second);
  const std::vector<Json> failed = second.lines();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0]["exit"], static_cast<int>(ExitCode::usage));
}

TEST_F(ControlServerTest, ALineWithoutEndEndsTheConnection) {
  Client one = client();
  one.say(std::string(kRequestBytesMax, 'x'));
  EXPECT_FALSE(turn(one));
  EXPECT_NE(one.heard.find("too long"), std::string::npos);
}

TEST_F(ControlServerTest, OthersThanRootMayOnlyRead) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become somebody else";
  ASSERT_EQ(seteuid(65534), 0);
  Client other = client();
  ASSERT_EQ(seteuid(0), 0);
  for (const char* command : {"on", "off", "reload"}) {
    EXPECT_EQ(ask(other, std::string("{\"cmd\":\"") + command + "\"}")["exit"], static_cast<int>(ExitCode::permission));
  }
  EXPECT_TRUE(backend_.changes_.empty());
  EXPECT_EQ(ask(other, R"({"cmd":"status"})")["ok"], true);
  Client root = client();
  EXPECT_EQ(ask(root, R"({"cmd":"on"})")["ok"], true);
  EXPECT_EQ(backend_.changes_, std::vector<std::string>{"on"});
}

TEST_F(ControlServerTest, AListIsStreamedWholeAndFiltered) {
  std::vector<Row> rows(20'000);
  for (size_t i = 0; i < rows.size(); i++) rows[i].raw.sock.tgid = i % 2 == 0 ? 1 : 2;
  backend_.rows_ = std::make_shared<const std::vector<Row>>(std::move(rows));
  Client one = client();
  one.say("{\"cmd\":\"list\",\"pid\":2}\n{\"cmd\":\"list\",\"limit\":3}\n");
  turn(one, 1000);
  const std::vector<Json> lines = one.lines();
  ASSERT_EQ(lines.size(), 10'000u + 1 + 3 + 1);
  EXPECT_EQ(lines[10'000]["data"]["total"], 10'000);
  EXPECT_EQ(lines.back()["data"]["total"], 20'000);
}

TEST_F(ControlServerTest, ASilentReaderHoldsUpNobody) {
  backend_.rows_ = std::make_shared<const std::vector<Row>>(std::vector<Row>(20'000));
  Client silent = client();
  silent.say("{\"cmd\":\"list\"}\n");
  for (int i = 0; i < 100; i++) ASSERT_TRUE(loop_->run_once(0));
  Client other = client();
  EXPECT_EQ(ask(other, R"({"cmd":"status"})")["ok"], true);
  turn(silent, 1000);
  EXPECT_EQ(silent.lines().size(), 20'001u);
}

TEST_F(ControlServerTest, MonitorsGetWhatTheyAskedFor) {
  Client all = client();
  Client spills = client();
  all.say("{\"cmd\":\"monitor\"}\n");
  spills.say("{\"cmd\":\"monitor\",\"kinds\":[\"spill\"]}\n");
  turn(all);
  EXPECT_EQ(backend_.monitors_, 2u);
  server_.publish(event_of(SH_EV_PAIRED));
  server_.publish(event_of(SH_EV_SPILL));
  turn(all);
  turn(spills);
  EXPECT_EQ(all.lines().size(), 2u);
  const std::vector<Json> lines = spills.lines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["event"], "spill");
  spills.hang_up();
  turn(all);
  EXPECT_EQ(backend_.monitors_, 1u);
}

TEST_F(ControlServerTest, AMonitorMayFinishSending) {
  Client one = client();
  one.say("{\"cmd\":\"monitor\"}\n");
  one.finish_sending();
  turn(one);
  server_.publish(event_of(SH_EV_PAIRED));
  EXPECT_TRUE(turn(one));
  EXPECT_EQ(one.lines().size(), 1u);
}

TEST_F(ControlServerTest, ASlowMonitorLosesEventsAndIsTold) {
  Client slow = client();
  slow.say("{\"cmd\":\"monitor\"}\n{\"cmd\":\"monitor\"}\n");
  ASSERT_TRUE(loop_->run_once(0));
  EXPECT_EQ(backend_.monitors_, 1u);
  constexpr uint64_t kEvents = 20'000;
  for (uint64_t i = 0; i < kEvents; i++) server_.publish(event_of(SH_EV_SPILL));
  EXPECT_GT(server_.events_lost(), 0u);
  turn(slow, 1000);
  uint64_t got = 0;
  uint64_t lost = 0;
  for (const Json& line : slow.lines()) {
    if (line["type"] == "event") got++;
    if (line["type"] == "lost") lost += line["count"].get<uint64_t>();
  }
  EXPECT_EQ(got + lost, kEvents);
  EXPECT_EQ(lost, server_.events_lost());
}

TEST_F(ControlServerTest, OffEndsForAllWhoAsked) {
  Client one = client();
  Client two = client();
  one.say("{\"cmd\":\"off\",\"timeout_ms\":7}\n");
  two.say("{\"cmd\":\"off\"}\n");
  turn(one);
  EXPECT_EQ(backend_.changes_, (std::vector<std::string>{"off 7", "off 0"}));
  server_.off_progress(5);
  server_.off_finished(Json{{"sockets_kept", 0}});
  turn(one);
  turn(two);
  for (Client* client : {&one, &two}) {
    const std::vector<Json> lines = client->lines();
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_EQ(lines[0]["remaining"], 5);
    EXPECT_EQ(lines[1]["ok"], true);
    EXPECT_EQ(ask(*client, R"({"cmd":"status"})")["ok"], true);
  }
}

TEST_F(ControlServerTest, AnAnswerIsBounded) {
  Client one = client();
  const Json answer = ask(one, R"({"cmd":"why","pid":1})");
  EXPECT_EQ(answer["data"]["connections"].size(), 1000u);
  EXPECT_EQ(answer["data"]["total"], 2000);
}

TEST(MetricsServerTest, SpeaksEnoughHttp) {
  auto loop = std::move(*EventLoop::create());
  MetricsServer server(*loop, []() -> Result<std::string> { return std::string("page\n"); });
  const auto answer = [&](const std::string& request) {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    EXPECT_TRUE(server.adopt(UniqueFd(fds[0])));
    Client client{UniqueFd(fds[1])};
    client.say(request);
    for (int i = 0; i < 20 && client.take(); i++) EXPECT_TRUE(loop->run_once(0));
    return client.heard;
  };
  EXPECT_EQ(answer("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").find("HTTP/1.1 200 OK\r\n"), 0u);
  EXPECT_NE(answer("GET /metrics?x=1 HTTP/1.0\r\n\r\n").find("\r\n\r\npage\n"), std::string::npos);
  EXPECT_EQ(answer("HEAD /metrics HTTP/1.1\r\n\r\n").find("page"), std::string::npos);
  EXPECT_EQ(answer("GET / HTTP/1.1\r\n\r\n").find("HTTP/1.1 404"), 0u);
  EXPECT_EQ(answer("POST /metrics HTTP/1.1\r\n\r\n").find("HTTP/1.1 405"), 0u);
  EXPECT_EQ(answer("GET /metrics\r\n\r\n").find("HTTP/1.1 400"), 0u);
  EXPECT_EQ(answer("\r\n\r\n").find("HTTP/1.1 400"), 0u);
  EXPECT_EQ(answer(std::string(9000, 'x')).find("HTTP/1.1 431"), 0u);
  EXPECT_EQ(answer("GET /metrics HTTP/1.1\r\n"), "");
}

}  // namespace
}  // namespace shunt
