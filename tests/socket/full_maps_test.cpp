// Maps over their limits, in programs that are built with small ones: connections stay on TCP, exact, with the reason,
// and come back to the shortcut when there is room.
#include <bpf/bpf.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <sockops/pins.hpp>
#include <thread>

#include "socket/connector.hpp"
#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

static_assert(SH_SOCKETS_MAX == 64 && SH_ISNS_MAX == 16 && SH_ANSWERS_MAX == 16 && SH_SELECT_MAX == 64);

constexpr int kPairsMax = SH_SOCKETS_MAX / 2;

size_t sockets_in_map(Accelerated& shortcut) { return shortcut.entries("sh_socks"); }

std::vector<Connection> make_fast_pairs(Accelerated& shortcut, int count) {
  std::vector<Connection> pairs;
  for (int i = 0; i < count; ++i) {
    pairs.push_back(connect_pair());
    EXPECT_TRUE(shortcut.make_fast(pairs.back())) << describe(shortcut.row(pairs.back().client.get()));
  }
  return pairs;
}

std::vector<Connection> connect_many(int count) {
  std::vector<Connection> connections(count);
  for (Connection& connection : connections) connection = connect_pair();
  return connections;
}

// As an application sees plain TCP: exact, and FIONREAD counts.
void expect_plain(Accelerated& shortcut, const Connection& connection) {
  ASSERT_TRUE(ping_pong(connection, 20));
  ASSERT_TRUE(ping_pong(connection, 2, 100000));
  EXPECT_FALSE(shortcut.is_in_map(connection.client.get())) << describe(shortcut.row(connection.client.get()));
  EXPECT_FALSE(shortcut.is_in_map(connection.server.get())) << describe(shortcut.row(connection.server.get()));
  for (const bool upload : {true, false}) {
    const int from = upload ? connection.client.get() : connection.server.get();
    const int to = upload ? connection.server.get() : connection.client.get();
    send_all(from, std::string(321, 'f'));
    ASSERT_TRUE(wait_readable(to, seconds(5)));
    EXPECT_EQ(readable_bytes(to), 321);
    EXPECT_EQ(receive_exactly(to, 321), std::string(321, 'f'));
  }
}

// ---- the socket map ----

TEST(SocketMap, AConnectionThatFindsItFullStaysOnTcp) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  std::vector<Connection> pairs = make_fast_pairs(shortcut, kPairsMax);
  ASSERT_EQ(sockets_in_map(shortcut), SH_SOCKETS_MAX);
  for (uint64_t i = 1; i <= 10; ++i) {
    const Connection extra = connect_pair();
    expect_plain(shortcut, extra);
    const auto row = shortcut.row(extra.client.get());
    ASSERT_TRUE(row);
    EXPECT_EQ(row->raw.sock.reason, uint32_t{SH_R_MAP_FULL}) << describe(row);
    EXPECT_EQ(shortcut.reason_count(SH_R_MAP_FULL), i);
  }
  pairs.resize(kPairsMax - 1);
  EXPECT_TRUE(eventually([&] { return sockets_in_map(shortcut) == SH_SOCKETS_MAX - 2; }));
  EXPECT_TRUE(shortcut.make_fast(connect_pair())) << "the way back";
  for (const Connection& pair : pairs) EXPECT_TRUE(shortcut.is_fast(pair) && ping_pong(pair, 2));
}

// One place is left: the connecting end gets it and has to leave again.
TEST(SocketMap, AnAcceptedSocketThatFindsItFullTakesItsPeerOut) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  std::vector<Connection> pairs = make_fast_pairs(shortcut, kPairsMax - 1);
  UniqueFd listener;
  {
    const OutOfCgroup outside(shortcut.cgroup());
    listener = listen_tcp();
  }
  // Without a message there is no sample at which it would leave.
  const Connection waiting = connect_through(listener.get(), local_endpoint(listener.get()));
  ASSERT_EQ(sockets_in_map(shortcut), SH_SOCKETS_MAX - 1);
  for (uint64_t i = 1; i <= 10; ++i) {
    const Connection extra = connect_pair();
    EXPECT_EQ(sockets_in_map(shortcut), SH_SOCKETS_MAX - 1) << "before the first message";
    expect_plain(shortcut, extra);
    EXPECT_EQ(shortcut.reason_count(SH_R_MAP_FULL), 2 * i) << "for both ends";
    const auto row = shortcut.row(extra.client.get());
    ASSERT_TRUE(row);
    EXPECT_EQ(row->raw.sock.reason, uint32_t{SH_R_MAP_FULL}) << describe(row);
  }
  EXPECT_TRUE(ping_pong(waiting, 2));
}

// Open connections to peers that are not enrolled occupy nothing: neither in the socket map nor beside it.
TEST(SocketMap, SocketsThatLeaveMakeRoom) {
  Accelerated shortcut;
  UniqueFd listener;
  {
    const OutOfCgroup outside(shortcut.cgroup());
    listener = listen_tcp();
  }
  const InCgroup inside(shortcut.cgroup());
  std::vector<Connection> open;
  for (int i = 0; i < 2 * SH_SOCKETS_MAX; ++i) {
    open.push_back(connect_through(listener.get(), local_endpoint(listener.get())));
    ASSERT_TRUE(ping_pong(open.back(), 2));
  }
  EXPECT_EQ(sockets_in_map(shortcut), 0u);
  EXPECT_EQ(shortcut.entries("sh_arrivals"), 0u);
  EXPECT_EQ(shortcut.reason_count(SH_R_MAP_FULL), 0u);
  EXPECT_TRUE(shortcut.make_fast(connect_pair()));
}

struct Ending {
  const char* name;
  void (*end)(Connection& connection, bool client_first);
};

UniqueFd& first_of(Connection& connection, bool client) { return client ? connection.client : connection.server; }

void reset_by(UniqueFd& fd) {
  const linger at_once{1, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  fd.reset();
}

const Ending kEndings[] = {
    {"both close",
     [](Connection& connection, bool client_first) {
       first_of(connection, client_first).reset();
       first_of(connection, !client_first).reset();
     }},
    {"one closes, and the other one when it is told",
     [](Connection& connection, bool client_first) {
       first_of(connection, client_first).reset();
       EXPECT_EQ(receive_to_eof(first_of(connection, !client_first).get()), "");
       first_of(connection, !client_first).reset();
     }},
    // An end that has closed its half is told the other one's end after TCP has closed the socket.
    {"both close their halves",
     [](Connection& connection, bool client_first) {
       const int first = first_of(connection, client_first).get(), second = first_of(connection, !client_first).get();
       EXPECT_EQ(shutdown(first, SHUT_WR), 0);
       EXPECT_EQ(receive_to_eof(second), "");
       send_all(second, "rest");
       EXPECT_EQ(shutdown(second, SHUT_WR), 0);
       EXPECT_EQ(receive_to_eof(first), "rest");
     }},
    {"one shuts down both ways",
     [](Connection& connection, bool client_first) {
       const int first = first_of(connection, client_first).get(), second = first_of(connection, !client_first).get();
       EXPECT_EQ(shutdown(first, SHUT_RDWR), 0);
       EXPECT_EQ(receive_to_eof(second), "");
       EXPECT_EQ(shutdown(second, SHUT_RDWR), 0);
     }},
    {"bytes are left unread",
     [](Connection& connection, bool client_first) {
       send_all(first_of(connection, client_first).get(), "unread");
       first_of(connection, !client_first).reset();
       first_of(connection, client_first).reset();
     }},
    {"one resets", [](Connection& connection, bool client_first) { reset_by(first_of(connection, client_first)); }},
    {"one resets with its half closed",
     [](Connection& connection, bool client_first) {
       EXPECT_EQ(shutdown(first_of(connection, client_first).get(), SHUT_WR), 0);
       EXPECT_EQ(receive_to_eof(first_of(connection, !client_first).get()), "");
       reset_by(first_of(connection, !client_first));
     }},
};

TEST(SocketMap, EveryWayToEndLeavesNothing) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  for (const Ending& ending : kEndings) {
    SCOPED_TRACE(ending.name);
    for (int i = 0; i < 2 * SH_SOCKETS_MAX; ++i) {
      Connection connection = connect_pair();
      if (i % 4 < 2) {
        ASSERT_TRUE(ping_pong(connection, 2));  // else neither end has sent anything
      }
      ending.end(connection, i % 2);
    }
    EXPECT_TRUE(eventually([&] { return sockets_in_map(shortcut) == 0; })) << sockets_in_map(shortcut);
    EXPECT_TRUE(eventually([&] { return shortcut.entries("sh_arrivals") == 0; })) << shortcut.entries("sh_arrivals");
  }
  EXPECT_EQ(shortcut.reason_count(SH_R_MAP_FULL), 0u);
  EXPECT_TRUE(shortcut.make_fast(connect_pair()));
}

// Everything that the traffic checker does, where most connections find the map full and some do not.
TEST(SocketMap, CheckedTrafficAtTheLimitIsExact) {
  constexpr int kConnections = 2000;
  Accelerated shortcut;
  TempDir dir;
  Child checker = Child::exec({SHUNT_TRAFFIC_PROGRAM, "--connections", std::to_string(kConnections), "--at-once", "200",
                               "--cgroup", shortcut.cgroup().path(), "-o", "json"},
                              dir / "out");
  const int code = checker.wait(seconds(120));
  const std::string output = read_text(dir / "out");
  ASSERT_EQ(code, 0) << output;
  EXPECT_EQ(nlohmann::json::parse(output)["connections"], kConnections);
  EXPECT_GT(shortcut.reason_count(SH_R_MAP_FULL), 100u) << shortcut.summary();
  EXPECT_GT(shortcut.counter(SH_C_PAIRS), 10u) << shortcut.summary();
  EXPECT_TRUE(eventually([&] { return sockets_in_map(shortcut) == 0; })) << sockets_in_map(shortcut);
}

// ---- pairing ----

// A deferred accept makes the passive end wait for the first bytes: meanwhile other connections push the record out.
TEST(PairingRecords, ThoseThatArePushedOutMakeNoPairAndNoDifference) {
  constexpr int kConnections = 2 * SH_ISNS_MAX;
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const UniqueFd listener = listen_tcp({.defer_accept_seconds = 20});
  std::vector<UniqueFd> clients;
  for (int i = 0; i < kConnections; ++i) clients.push_back(connect_tcp(local_endpoint(listener.get())));
  EXPECT_LE(shortcut.entries("sh_isns"), SH_ISNS_MAX);
  int left = 0, paired = 0;
  for (UniqueFd& client : clients) {
    Connection connection;
    send_all(client.get(), "request");
    connection.client = std::move(client);
    connection.server = accept_tcp(listener.get());
    ASSERT_EQ(receive_exactly(connection.server.get(), 7), "request");
    send_all(connection.server.get(), std::string(100, 'r'));
    ASSERT_TRUE(wait_readable(connection.client.get(), seconds(5)));
    const bool stays = shortcut.is_in_map(connection.client.get());
    EXPECT_EQ(readable_bytes(connection.client.get()), 100);
    ASSERT_EQ(receive_exactly(connection.client.get(), 100), std::string(100, 'r'));
    (stays ? paired : left)++;
    const size_t waiting = static_cast<size_t>(kConnections - paired - left);
    EXPECT_EQ(sockets_in_map(shortcut), waiting + (stays ? 2 : 0));
    if (stays) {
      EXPECT_TRUE(shortcut.make_fast(connection));
    } else {
      expect_plain(shortcut, connection);
      EXPECT_EQ(shortcut.row(connection.client.get())->raw.sock.reason, uint32_t{SH_R_NO_PEER});
    }
  }
  EXPECT_GE(left, kConnections - SH_ISNS_MAX) << shortcut.summary();
  EXPECT_EQ(shortcut.counter(SH_C_PAIRS), static_cast<uint64_t>(paired)) << shortcut.summary();
  EXPECT_EQ(shortcut.counter(SH_C_LEFT), static_cast<uint64_t>(left)) << shortcut.summary();
  EXPECT_EQ(shortcut.reason_count(SH_R_NO_PEER), static_cast<uint64_t>(left)) << shortcut.summary();
}

// Pairs of which nobody has sent: the answers to their active ends push each other out.
TEST(Answers, ThoseThatArePushedOutLeaveTheConnectionOnTcp) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const std::vector<Connection> connections = connect_many(kPairsMax);
  int fast = 0;
  for (const Connection& connection : connections) {
    ASSERT_TRUE(ping_pong(connection, 20));
    if (shortcut.is_in_map(connection.client.get())) {
      EXPECT_TRUE(shortcut.make_fast(connection));
      ++fast;
      continue;
    }
    EXPECT_EQ(shortcut.row(connection.client.get())->raw.sock.reason, uint32_t{SH_R_NO_PEER});
    const auto server = shortcut.row(connection.server.get());
    ASSERT_TRUE(server);
    EXPECT_EQ(server->raw.sock.state, uint32_t{SH_STATE_STOPPED}) << describe(server);
    EXPECT_EQ(server->raw.sock.reason, uint32_t{SH_R_PEER_STOPPED}) << describe(server);
    EXPECT_EQ(server->raw.sock.fast_bytes, 0u) << describe(server);
  }
  EXPECT_GT(fast, 0);
  EXPECT_LE(fast, SH_ANSWERS_MAX);
  EXPECT_EQ(shortcut.counter(SH_C_LEFT), static_cast<uint64_t>(kPairsMax - fast)) << shortcut.summary();
}

// The active end, whose answer is lost, leaves the map at its first request while the passive end, which believes in
// the pair, is sending: a redirect that is under way must not fail.
TEST(Answers, NoSendFailsWhileTheOtherEndLeaves) {
  constexpr int kRounds = 40;
  constexpr size_t kStreamBytes = 400000;
  Settings settings = plain_settings();
  settings.one_way_messages = UINT32_MAX / 512;
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  const std::string stream = pattern(5, kStreamBytes);
  for (int round = 0; round < kRounds; ++round) {
    const std::vector<Connection> connections = connect_many(SH_ANSWERS_MAX + 8);
    const Connection& oldest = connections.front();
    std::atomic<int> error{0};
    std::thread server([&] {
      for (size_t sent = 0; sent < kStreamBytes;) {
        const ssize_t n =
            send(oldest.server.get(), stream.data() + sent, std::min<size_t>(100, kStreamBytes - sent), MSG_NOSIGNAL);
        if (n < 0) {
          error = errno;
          return;
        }
        sent += static_cast<size_t>(n);
      }
    });
    std::string got, requests;
    while (got.size() < kStreamBytes) {  // each request is a chance to leave
      const std::string part = receive_exactly(oldest.client.get(), std::min<size_t>(1000, kStreamBytes - got.size()));
      if (part.empty()) break;
      got += part;
      requests += 'r';
      send_all(oldest.client.get(), "r");
    }
    server.join();
    ASSERT_EQ(error.load(), 0) << strerror(error.load()) << " in round " << round;
    ASSERT_TRUE(got == stream) << got.size() << " bytes in round " << round;
    ASSERT_EQ(receive_exactly(oldest.server.get(), requests.size()), requests);
    EXPECT_FALSE(shortcut.is_in_map(oldest.client.get())) << "its answer was not lost";
  }
}

// ---- what is kept by destination, listener, process ----

TEST(Profiles, MoreDestinationsThanProfiles) {
  Settings settings = plain_settings();
  settings.profile = true;
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  std::vector<UniqueFd> listeners(3 * SH_PROFILES_MAX);
  for (UniqueFd& listener : listeners) listener = listen_tcp();
  for (int round = 0; round < 3; ++round) {
    for (const UniqueFd& listener : listeners) {
      const Connection connection = connect_through(listener.get(), local_endpoint(listener.get()));
      ASSERT_TRUE(ping_pong(connection, 10));
    }
  }
  const auto profiles = shortcut.engine().profiles();
  ASSERT_TRUE(profiles.has_value());
  EXPECT_LE(profiles->size(), size_t{SH_PROFILES_MAX});
  EXPECT_EQ(shortcut.counter(SH_C_PAIRS), 3 * listeners.size()) << shortcut.summary();
}

TEST(Listeners, MoreThanAreKept) {
  Settings settings = plain_settings();
  settings.any_program = false;
  settings.receivers = {{.name = own_program()}};
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  std::vector<UniqueFd> listeners(3 * SH_LISTENERS_MAX);
  for (UniqueFd& listener : listeners) listener = listen_tcp();
  uint64_t fast = 0, plain = 0;
  for (const UniqueFd& listener : listeners) {
    const Connection connection = connect_through(listener.get(), local_endpoint(listener.get()));
    ASSERT_TRUE(ping_pong(connection, 20));
    if (shortcut.is_in_map(connection.client.get())) {
      EXPECT_TRUE(shortcut.make_fast(connection));
      ++fast;
      continue;
    }
    ++plain;
    expect_plain(shortcut, connection);
    EXPECT_EQ(shortcut.row(connection.client.get())->raw.sock.reason, uint32_t{SH_R_LISTENER_UNKNOWN});
  }
  EXPECT_GE(plain, listeners.size() - SH_LISTENERS_MAX) << shortcut.summary();
  EXPECT_GT(fast, 0u) << shortcut.summary();
  EXPECT_GE(shortcut.reason_count(SH_R_LISTENER_UNKNOWN), plain) << shortcut.summary();
}

// The table of verdicts itself: a connection that is not enrolled could have lost its verdict, or ask for the first
// time.
class Verdicts {
 public:
  explicit Verdicts(const Accelerated& shortcut) {
    auto map = open_map(shortcut.paths(), generations(shortcut.paths()).back(), "sh_processes");
    require(map.has_value(), "open sh_processes");
    map_ = std::move(*map);
  }
  // Of the entry, an enum sh_reason. None: never asked for, or pushed out.
  std::optional<uint32_t> on(pid_t pid) const {
    sh_process_key key{}, next{};
    for (int more = bpf_map_get_next_key(map_.get(), nullptr, &next); more == 0;
         more = bpf_map_get_next_key(map_.get(), &key, &next)) {
      key = next;
      if (key.tgid == static_cast<uint32_t>(pid)) return on(key);
    }
    return std::nullopt;
  }
  std::optional<uint32_t> on(const sh_process_key& key) const {
    sh_process verdict{};
    if (bpf_map_lookup_elem(map_.get(), &key, &verdict) != 0) return std::nullopt;
    return verdict.reason;
  }
  void set(const sh_process_key& key, uint32_t reason) const {
    const sh_process verdict{.reason = reason, .pad = 0};
    require(bpf_map_update_elem(map_.get(), &key, &verdict, BPF_ANY) == 0, "write into sh_processes");
  }

 private:
  UniqueFd map_;
};

// As the daemon does, and looks after each inspection whether its verdict is there.
void verify_each(Accelerated& shortcut, const Verdicts& verdicts) {
  const auto read = shortcut.engine().read_events([&](const sh_event& event) {
    if (event.kind != SH_EV_VERIFY) return;
    const auto pid = static_cast<pid_t>(event.tgid);
    if (!verdicts.on(pid)) return;  // pushed out by another request
    EXPECT_TRUE(shortcut.engine().verify_process(event.tgid).has_value());
    EXPECT_EQ(verdicts.on(pid).value_or(SH_R_PROGRAM_UNVERIFIED), uint32_t{SH_R_NONE}) << "the verdict was lost";
  });
  EXPECT_TRUE(read.has_value());
}

// What the kernel forgets to make room, before the connection, is asked for again: also the listener's verdict.
bool is_enrolled_once_verified(Accelerated& shortcut, const Verdicts& verdicts, const Connector& process,
                               const UniqueFd& listener) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    verify_each(shortcut, verdicts);
    const bool both_kept = verdicts.on(process.pid()) == SH_R_NONE && verdicts.on(getpid()) == SH_R_NONE;
    if (shortcut.is_in_map(process.connect(listener.get()).get())) return true;
    EXPECT_FALSE(both_kept) << "both verdicts were there";
  }
  return false;
}

// Where the entry is the next to be pushed out when its own verdict is written.
TEST(Processes, AVerdictIsKeptInAFullTable) {
  constexpr uint64_t kInspections = 5000;
  Accelerated shortcut(settings_with_verification());
  const Verdicts verdicts(shortcut);
  const auto self = static_cast<uint32_t>(getpid());
  uint64_t others = 0, inspected = 0, lost = 0;
  for (uint64_t i = 1; i <= kInspections; ++i) {
    const sh_process_key key{.start_boottime_ns = i, .tgid = self, .pad = 0};
    verdicts.set(key, SH_R_PROGRAM_UNVERIFIED);
    for (uint64_t more = 0; more < i % (2 * SH_SELECT_MAX); ++more)
      verdicts.set({.start_boottime_ns = ++others, .tgid = 1, .pad = 0}, SH_R_NONE);
    if (!verdicts.on(key)) continue;  // it was pushed out before
    ASSERT_TRUE(shortcut.engine().verify_process(self).has_value());
    ++inspected;
    lost += verdicts.on(key) != SH_R_NONE;
  }
  EXPECT_EQ(lost, 0u) << "of " << inspected;
  EXPECT_GT(inspected, kInspections / 10);
}

TEST(Processes, MoreThanVerdictsAreKept) {
  constexpr int kProcesses = SH_SELECT_MAX + SH_SELECT_MAX / 2;
  Accelerated shortcut(settings_with_verification());
  const InCgroup inside(shortcut.cgroup());
  const UniqueFd listener = verified_listener(shortcut);
  const Verdicts verdicts(shortcut);
  std::vector<std::unique_ptr<Connector>> processes;
  for (int i = 0; i < kProcesses; ++i) {
    processes.push_back(std::make_unique<Connector>(listener.get()));
    const Connector& process = *processes.back();
    EXPECT_FALSE(shortcut.is_in_map(process.connect(listener.get()).get())) << i;
    EXPECT_TRUE(is_enrolled_once_verified(shortcut, verdicts, process, listener)) << i << " " << shortcut.summary();
  }
  EXPECT_GE(shortcut.reason_count(SH_R_PROGRAM_UNVERIFIED), uint64_t{kProcesses}) << shortcut.summary();
  EXPECT_LE(shortcut.entries("sh_processes"), SH_SELECT_MAX);
  // Some were forgotten (which ones, the kernel chooses): their next connection asks again.
  int forgotten = 0;
  for (const auto& process : processes) {
    if (shortcut.is_in_map(process->connect(listener.get()).get())) continue;
    ++forgotten;
    EXPECT_TRUE(is_enrolled_once_verified(shortcut, verdicts, *process, listener)) << shortcut.summary();
  }
  EXPECT_GE(forgotten, kProcesses - SH_SELECT_MAX);
}

// The ring is full of what somebody wanted to watch: records are counted as lost, and a process whose request for a
// verdict was among them asks again.
TEST(Events, ALostRequestForAVerdictIsRepeated) {
  Accelerated shortcut(settings_with_verification());
  const InCgroup inside(shortcut.cgroup());
  const UniqueFd listener = verified_listener(shortcut);
  const Connector process(listener.get());
  shortcut.engine().want_events(true);
  for (int i = 0; i < 2 * SH_EVENT_RING_BYTES / static_cast<int>(sizeof(sh_event)) / 4; ++i)
    ASSERT_TRUE(ping_pong(connect_through(listener.get(), local_endpoint(listener.get())), 2));
  const uint64_t lost = shortcut.counter(SH_C_EVENTS_LOST);
  EXPECT_GT(lost, 0u);
  EXPECT_FALSE(shortcut.is_in_map(process.connect(listener.get()).get()));
  shortcut.engine().want_events(false);
  verify_all(shortcut);  // makes room
  EXPECT_FALSE(shortcut.is_in_map(process.connect(listener.get()).get()));
  verify_all(shortcut);
  EXPECT_TRUE(shortcut.is_in_map(process.connect(listener.get()).get())) << shortcut.summary();
}

// ---- why ----

TEST(Why, MoreConnectionsThanReasonsAreKept) {
  Settings settings = plain_settings();
  settings.selection.ports.exclude = {{1, 65535}};
  Accelerated shortcut(settings);
  UniqueFd older_listener = listen_tcp();
  const Connection older = connect_through(older_listener.get(), local_endpoint(older_listener.get()));
  const InCgroup inside(shortcut.cgroup());
  const std::vector<Connection> connections = connect_many(3 * SH_SKIPPED_MAX);
  for (const Connection& connection : connections) expect_plain(shortcut, connection);
  EXPECT_GE(shortcut.reason_count(SH_R_PORT), connections.size());
  const auto why = pinned_why(shortcut.paths(), {.tgid = static_cast<uint32_t>(getpid()), .addr = {}});
  ASSERT_TRUE(why.has_value());
  std::map<uint32_t, size_t> reasons;
  for (const WhyRow& row : *why) ++reasons[row.reason];
  EXPECT_GT(reasons[SH_R_PORT], 0u);
  EXPECT_LE(reasons[SH_R_PORT], size_t{SH_SKIPPED_MAX});
  EXPECT_EQ(reasons[SH_R_OLDER], 2u) << "only the two ends of the connection that is older";
  EXPECT_EQ(reasons[SH_R_PORT] + reasons[SH_R_NO_PEER] + reasons[SH_R_FORGOTTEN], 2 * connections.size());
}

// ---- selection ----

TEST(Selection, TooManyEntriesAreRefusedAndTheOldOnesStay) {
  Settings settings = plain_settings();
  settings.selection.users.exclude = {4711};
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  Settings more = settings;
  more.selection.cgroups.include = {shortcut.cgroup().name()};
  more.selection.users.exclude.clear();
  for (uint32_t uid = 0; uid <= SH_SELECT_MAX; ++uid) more.selection.users.exclude.push_back(uid);  // root too
  const auto refused = shortcut.engine().apply(more);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, E2BIG);
  EXPECT_NE(refused.error().to_string().find("at most 64"), std::string::npos) << refused.error().to_string();
  EXPECT_TRUE(shortcut.make_fast(connect_pair())) << "root is not excluded";
  EXPECT_EQ(shortcut.entries("sh_users"), 1);
}

// The new entries are written before the old ones go: both together are more than one list may have.
TEST(Selection, AFullListIsReplacedByAnother) {
  Settings settings = plain_settings();
  for (uint32_t i = 0; i < SH_SELECT_MAX; ++i) {
    settings.selection.users.exclude.push_back(1000 + i);
    settings.selection.cidrs.exclude.push_back(
        {.addr = {0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, static_cast<uint8_t>(i)}, .prefix_bits = 128});
    settings.selection.programs.exclude.push_back(fmt::format("program-{}", i));
  }
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  for (uint32_t& uid : settings.selection.users.exclude) uid += 10000;
  for (Cidr& cidr : settings.selection.cidrs.exclude) cidr.addr[1] = 1;
  for (std::string& name : settings.selection.programs.exclude) name += "-new";
  shortcut.apply(settings);
  EXPECT_EQ(shortcut.entries("sh_users"), SH_SELECT_MAX);
  EXPECT_EQ(shortcut.entries("sh_cidrs"), SH_SELECT_MAX);
  EXPECT_EQ(shortcut.entries("sh_programs"), SH_SELECT_MAX);
  EXPECT_TRUE(shortcut.make_fast(connect_pair()));
}

// ---- storage ----

// Socket storage is charged to the socket's option memory.
void forbid_option_memory() {
  require(write_text("/proc/sys/net/core/optmem_max", "256"), "limit the option memory of a network namespace");
}

TEST(Storage, WithoutMemoryForItAConnectionStaysOnTcp) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const NetNs space;
  space.run([&] {
    forbid_option_memory();
    for (uint64_t i = 1; i <= 10; ++i) {
      const Connection connection = connect_pair();
      expect_plain(shortcut, connection);
      EXPECT_EQ(shortcut.reason_count(SH_R_NO_MEMORY), i) << shortcut.summary();
    }
  });
  EXPECT_TRUE(shortcut.make_fast(connect_pair()));
}

TEST(Storage, WithoutMemoryForItAnAcceptedSocketTakesItsPeerOut) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const NetNs a, b;
  connect_namespaces(a, "eth0", "10.1.0.1/24", b, "eth0", "10.1.0.2/24");
  UniqueFd listener;
  b.run([&] {
    forbid_option_memory();
    listener = listen_tcp({.address = "10.1.0.2", .port = 8000});
  });
  for (uint64_t i = 1; i <= 10; ++i) {
    Connection connection;
    a.run([&] { connection.client = connect_tcp(endpoint("10.1.0.2", 8000)); });
    connection.server = accept_tcp(listener.get());
    expect_plain(shortcut, connection);
    const auto row = shortcut.row(connection.client.get());
    ASSERT_TRUE(row);
    EXPECT_EQ(row->raw.sock.reason, uint32_t{SH_R_NO_MEMORY}) << describe(row);
    EXPECT_EQ(shortcut.reason_count(SH_R_NO_MEMORY), 2 * i) << "for both ends";
  }
}

}  // namespace
}  // namespace shunt::test
