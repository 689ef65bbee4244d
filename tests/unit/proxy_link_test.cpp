#include <fcntl.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <base/proxy_link.hpp>
#include <control/gateway_link.hpp>
#include <control/proxy_link.hpp>
#include <cstdlib>
#include <filesystem>
#include <tests/unit/fake_engine.hpp>

namespace shunt {
namespace {

struct Pair {
  Pair() {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) abort();
    a.reset(ends[0]);
    b.reset(ends[1]);
  }
  UniqueFd a, b;
};

UniqueFd some_file() { return UniqueFd(memfd_create("some", MFD_CLOEXEC)); }

ino_t inode(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

TEST(LinkMessages, CarryNumbersAndDescriptors) {
  const Pair link;
  const UniqueFd one = some_file(), two = some_file();
  ASSERT_TRUE(send_link_message(link.a.get(), LinkKind::channels, {7, 9}, {one.get(), two.get()}));
  ASSERT_TRUE(send_link_message(link.a.get(), LinkKind::keep, {}, {}));
  auto first = receive_link_message(link.b.get());
  ASSERT_TRUE(first);
  EXPECT_EQ(first->kind, LinkKind::channels);
  EXPECT_EQ(first->numbers, (std::vector<uint32_t>{7, 9}));
  ASSERT_EQ(first->fds.size(), 2u);
  EXPECT_EQ(inode(first->fds[0].get()), inode(one.get()));
  EXPECT_EQ(inode(first->fds[1].get()), inode(two.get()));
  EXPECT_NE(fcntl(first->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  auto second = receive_link_message(link.b.get());
  ASSERT_TRUE(second);
  EXPECT_EQ(second->kind, LinkKind::keep);
  EXPECT_TRUE(second->numbers.empty() && second->fds.empty());
}

TEST(LinkMessages, WhatIsNoneIsRefused) {
  const std::string beyond(1, static_cast<char>(LinkKind::expiry) + 1);
  for (const std::string& text : {beyond + std::string(3, '\0'), std::string("\x01\0\0", 3), std::string(4000, '\1')}) {
    const Pair link;
    ASSERT_EQ(send(link.a.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    const auto message = receive_link_message(link.b.get());
    ASSERT_FALSE(message);
    EXPECT_EQ(message.error().code, EPROTO);
  }
  Pair link;
  link.a.reset();
  EXPECT_EQ(receive_link_message(link.b.get()).error().code, ECONNRESET);
}

TEST(LinkMessages, CarryServersWithAndWithoutSockets) {
  const Pair link;
  const UniqueFd one = some_file(), two = some_file();
  std::vector<LinkServer> sent(150);  // more than one message holds
  for (uint32_t i = 0; i < sent.size(); i++) sent[i] = {i, 7, 256 + i, static_cast<uint16_t>(80 + i), {}, -1};
  sent[3].address = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1};
  sent[3].socket = one.get();
  sent[140].socket = two.get();
  ASSERT_TRUE(send_link_servers(link.a.get(), sent));
  uint32_t slot = 0;
  for (const size_t count : {kLinkServersMax, sent.size() - kLinkServersMax}) {
    auto message = receive_link_message(link.b.get());
    ASSERT_TRUE(message);
    ASSERT_EQ(message->kind, LinkKind::steer);
    const auto servers = read_link_servers(*message);
    ASSERT_TRUE(servers);
    ASSERT_EQ(servers->size(), count);
    for (const LinkServer& server : *servers) {
      const LinkServer& wanted = sent[slot++];
      EXPECT_EQ(server.slot, wanted.slot);
      EXPECT_EQ(server.generation, 7u);
      EXPECT_EQ(server.identity, wanted.identity);
      EXPECT_EQ(server.port, wanted.port);
      EXPECT_EQ(server.address, wanted.address);
      ASSERT_EQ(server.socket >= 0, wanted.socket >= 0);
      EXPECT_EQ(inode(server.socket), inode(wanted.socket));
    }
    message->numbers.pop_back();
    EXPECT_FALSE(read_link_servers(*message));
  }
}

TEST(LinkMessages, ServersWithoutTheirSocketsAreRefused) {
  LinkMessage message{LinkKind::steer, {0, 7, 256, 80, 1, 0, 0, 0, 0}, {}};
  EXPECT_FALSE(read_link_servers(message));
  message.numbers[4] = 0;
  EXPECT_TRUE(read_link_servers(message));
  message.fds.push_back(some_file());
  EXPECT_FALSE(read_link_servers(message));
}

TEST(Bundles, AreReadAsTheyWereSealed) {
  // Lengths and numbers on both sides of where their form changes.
  PolicyBundle bundle{{{"a.yaml", "x: 1\n\xff"}, {"b.yaml", ""}}, {{256, "default/web"}, {1, "host"}}};
  for (const size_t bytes : {23u, 24u, 255u, 256u, 65'535u, 65'536u})
    bundle.sources.push_back({std::to_string(bytes) + ".yaml", std::string(bytes, 'x')});
  for (const uint32_t number : {0u, 23u, 24u, 65'536u, UINT32_MAX}) bundle.identities.push_back({number, "w"});
  auto begun = begin_bundle(bundle.sources);
  ASSERT_TRUE(begun);
  const auto memfd = end_bundle(std::move(*begun), bundle.identities);
  ASSERT_TRUE(memfd);
  EXPECT_LT(write(memfd->get(), "x", 1), 0) << "a sealed bundle can be changed";
  const auto read = open_bundle(memfd->get());
  ASSERT_TRUE(read);
  ASSERT_EQ(read->sources.size(), bundle.sources.size());
  for (size_t i = 0; i < bundle.sources.size(); i++) {
    EXPECT_EQ(read->sources[i].name, bundle.sources[i].name);
    EXPECT_EQ(read->sources[i].text, bundle.sources[i].text);
  }
  ASSERT_EQ(read->identities.size(), bundle.identities.size());
  for (size_t i = 0; i < bundle.identities.size(); i++) {
    EXPECT_EQ(read->identities[i].number, bundle.identities[i].number);
    EXPECT_EQ(read->identities[i].title, bundle.identities[i].title);
  }
}

TEST(Bundles, WhatIsNotSealedIsRefused) {
  const UniqueFd memfd = some_file();
  ASSERT_EQ(write(memfd.get(), "x", 1), 1);
  EXPECT_FALSE(open_bundle(memfd.get()));
}

int policy_file() {
  static const UniqueFd file = some_file();
  return file.get();
}

// The daemon's end, with an engine of the test's own behind it.
class DaemonsEnd : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/shunt-link-XXXXXX";
    folder_ = mkdtemp(name);
    loop_ = std::move(*EventLoop::create());
    engine_ = std::move(*Engine::open({}, {}, {}));
    link_ = std::make_unique<ProxyLink>(*loop_, ProxyLink::Hooks{[this] { return engine_.get(); },
                                                                 [] {
                                                                   return ProxyLink::Policy{5, policy_file()};
                                                                 }});
    ASSERT_TRUE(link_->listen(folder_ + "/proxy.sock", "nobody"));
    fake_kernel().channels_made = fake_kernel().channels_ended = fake_kernel().steering_ended = 0;
  }
  void TearDown() override {
    link_.reset();
    std::filesystem::remove_all(folder_);
  }

  UniqueFd connect() const {
    UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{AF_UNIX, {}};
    (folder_ + "/proxy.sock").copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  void turn() const {
    for (int i = 0; i < 3; i++) ASSERT_TRUE(loop_->run_once(50));
  }

  std::string folder_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ProxyLink> link_;
};

TEST_F(DaemonsEnd, HandsOutThePolicyAndThenTheChannels) {
  const UniqueFd proxy = connect();
  ASSERT_TRUE(send_link_message(proxy.get(), LinkKind::hello, {kProxyLinkVersion, 150}, {}));
  turn();
  auto policy = receive_link_message(proxy.get());
  ASSERT_TRUE(policy);
  ASSERT_EQ(policy->kind, LinkKind::policy);
  EXPECT_EQ(policy->numbers, std::vector<uint32_t>{5});
  EXPECT_EQ(inode(policy->fds.at(0).get()), inode(policy_file()));
  EXPECT_EQ(receive_link_message(proxy.get())->kind, LinkKind::page);
  const auto first = receive_link_message(proxy.get()), second = receive_link_message(proxy.get());
  EXPECT_EQ(first->numbers.size() + second->numbers.size(), 150u);
  EXPECT_EQ(first->fds.size() + second->fds.size(), 300u);
  const auto clients = receive_link_message(proxy.get());
  EXPECT_EQ(clients->kind, LinkKind::maps);
  EXPECT_EQ(clients->fds.size(), 1u);
  link_->policy_changed();
  EXPECT_EQ(receive_link_message(proxy.get())->kind, LinkKind::policy);
}

TEST_F(DaemonsEnd, AProxyWithChannelsKeepsThem) {
  const UniqueFd proxy = connect(), page = some_file();
  fake_kernel().owns_channels = true;
  ASSERT_TRUE(send_link_message(proxy.get(), LinkKind::hello, {kProxyLinkVersion, 4}, {page.get()}));
  turn();
  fake_kernel().owns_channels = false;
  EXPECT_EQ(receive_link_message(proxy.get())->kind, LinkKind::policy);
  EXPECT_EQ(receive_link_message(proxy.get())->kind, LinkKind::keep);
  EXPECT_EQ(fake_kernel().channels_made, 0u);
}

TEST_F(DaemonsEnd, TellsWhichServersAreSteeredAndWhoTheyAre) {
  fake_kernel().steered = {{0, 256, true}, {2, 257, true}};
  const UniqueFd proxy = connect();
  ASSERT_TRUE(send_link_message(proxy.get(), LinkKind::hello, {kProxyLinkVersion, 1}, {}));
  turn();
  for (const LinkKind kind : {LinkKind::policy, LinkKind::page, LinkKind::channels, LinkKind::maps})
    ASSERT_EQ(receive_link_message(proxy.get())->kind, kind);
  const auto next = [&](LinkKind kind) {
    auto message = receive_link_message(proxy.get());
    EXPECT_EQ(message->kind, kind);
    return std::move(*message);
  };
  LinkMessage message = next(LinkKind::steer);
  auto servers = read_link_servers(message);
  ASSERT_EQ(servers->size(), 2u);
  EXPECT_TRUE(servers->at(0).socket >= 0 && servers->at(1).socket >= 0);
  EXPECT_EQ(servers->at(1).generation, 5u);
  // One goes, one is somebody else now, one has come; what did not change is not said again.
  fake_kernel().steered = {{2, 300, false}, {3, 301, true}, {4, 302, true}};
  link_->look_for_servers(false);
  link_->look_for_servers(true);
  EXPECT_EQ(next(LinkKind::unsteer).numbers, std::vector<uint32_t>{0});
  message = next(LinkKind::steer);
  servers = read_link_servers(message);
  ASSERT_EQ(servers->size(), 3u);
  EXPECT_EQ(servers->at(0).slot, 2u);
  EXPECT_EQ(servers->at(0).identity, 300u);
  EXPECT_TRUE(servers->at(0).socket < 0 && servers->at(1).socket >= 0);
  fake_kernel().steered = {{2, 300, false}, {3, 301, false}, {4, 302, false}};
  link_->look_for_servers(true);
  link_->policy_changed();
  EXPECT_EQ(next(LinkKind::policy).numbers, std::vector<uint32_t>{5});
  fake_kernel().steered.clear();
  link_->end();
  EXPECT_EQ(fake_kernel().steering_ended, 1u);
  EXPECT_EQ(receive_link_message(proxy.get()).error().code, ECONNRESET);
}

TEST_F(DaemonsEnd, AProxyThatGoesIsDealtWith) {
  UniqueFd proxy = connect();
  ASSERT_TRUE(send_link_message(proxy.get(), LinkKind::hello, {kProxyLinkVersion, 4}, {}));
  turn();
  EXPECT_EQ(fake_kernel().channels_made, 4u);
  proxy.reset();
  turn();
  EXPECT_EQ(fake_kernel().channels_ended, 1u);
  EXPECT_FALSE(link_->connected());
}

TEST_F(DaemonsEnd, AnotherVersionIsSentAway) {
  const UniqueFd proxy = connect();
  ASSERT_TRUE(send_link_message(proxy.get(), LinkKind::hello, {kProxyLinkVersion + 1, 4}, {}));
  turn();
  EXPECT_EQ(receive_link_message(proxy.get()).error().code, ECONNRESET);
  EXPECT_EQ(fake_kernel().channels_made, 0u);
}

// Likewise, for the gateway.
class GatewaysEnd : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/shunt-link-XXXXXX";
    folder_ = mkdtemp(name);
    const passwd* own = getpwuid(geteuid());
    user_ = own == nullptr ? "" : own->pw_name;
    fake_kernel().gateways.clear();
    fake_kernel().end.path = "/gateway.service";
    ASSERT_TRUE(link_.listen(path()));
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path() const { return folder_ + "/gateway.sock"; }
  void turn() const {
    for (int i = 0; i < 3; i++) ASSERT_TRUE(loop_->run_once(50));
  }

  std::string folder_, user_;
  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  std::unique_ptr<Engine> engine_ = std::move(*Engine::open({}, {}, {}));
  GatewayLink link_{*loop_, {[this] { return engine_.get(); }, [this] { return user_; }}};
};

TEST_F(GatewaysEnd, TheGatewayIsAdmittedByItsUserAndCgroupUntilItGoes) {
  auto gateway = connect_link(path(), LinkKind::gateway, {kGatewayLinkVersion}, {});
  ASSERT_TRUE(gateway);
  turn();
  const auto maps = receive_link_message(gateway->get());
  ASSERT_TRUE(maps);
  EXPECT_EQ(maps->kind, LinkKind::maps);
  EXPECT_EQ(maps->fds.size(), 2u);
  EXPECT_TRUE(link_.connected());
  EXPECT_EQ(link_.certificate_expiry(), 0u);
  ASSERT_TRUE(send_link_message(gateway->get(), LinkKind::expiry, {1, 2}, {}));
  turn();
  EXPECT_EQ(link_.certificate_expiry(), (uint64_t{1} << 32) + 2);
  gateway->reset();
  turn();
  EXPECT_FALSE(link_.connected());
  EXPECT_EQ(fake_kernel().gateways,
            (std::vector<std::string>{std::to_string(geteuid()) + " /gateway.service", "none"}));
}

TEST_F(GatewaysEnd, NobodyIsAdmittedWhereNoGatewayIsConfiguredOrWithAnotherVersion) {
  for (const uint32_t version : {kGatewayLinkVersion + 1, kGatewayLinkVersion}) {
    auto gateway = connect_link(path(), LinkKind::gateway, {version}, {});
    ASSERT_TRUE(gateway);
    if (version == kGatewayLinkVersion) user_.clear();
    turn();
    const auto answer = receive_link_message(gateway->get());
    EXPECT_FALSE(answer) << version;
  }
  EXPECT_TRUE(fake_kernel().gateways.empty());
}

}  // namespace
}  // namespace shunt
