// The engine: loads the BPF programs, attaches them, keeps them pinned, and answers questions about them. One engine at
// a time owns a pin folder (a lock file in the runtime folder of the daemon says so); reading functions work beside it.
#pragma once

#include <bpf/abi/gateway.h>
#include <bpf/abi/shunt.h>

#include <array>
#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <bpf/abi/policy_rows.hpp>
#include <bpf/abi/policy_source.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <sockops/probe.hpp>
#include <sockops/responses.hpp>
#include <sockops/settings.hpp>
#include <string>
#include <vector>

namespace shunt {

const char* reason_name(uint32_t reason);  // "?" beyond the list
const char* reason_text(uint32_t reason);

// Where things are on this host.
struct Paths {
  std::string bpffs;        // a mounted bpffs, or empty: /sys/fs/bpf, mounted if needed
  std::string pin_dir;      // empty: <bpffs>/shunt; made with mode 0700
  std::string cgroup_root;  // empty: the cgroup v2 mount found in /proc/self/mountinfo
};

struct Row {
  sh_row raw;  // as the kernel sees it
  // What the kernel does not know:
  std::string unit;         // systemd unit or cgroup path of the socket's cgroup; empty if unknown
  uint32_t generation = 0;  // which generation of the programs it belongs to
};

struct Counters {
  uint64_t counters[SH_COUNTER_COUNT] = {};  // enum sh_counter, summed over CPUs and generations
  uint64_t reasons[SH_REASON_COUNT] = {};    // how often each reason applied
};

struct Status {
  bool attached = false;
  uint32_t mode = 0;  // enum sh_mode
  uint32_t generation = 0;
  std::vector<uint32_t> generations;       // all that still have sockets
  std::vector<std::string> attach_points;  // cgroup paths
  bool verdict = false;
  uint64_t memory_bytes = 0;  // of maps and programs, from their fdinfo
  uint32_t sockets = 0;       // in the map
  uint32_t pairs = 0;
  uint32_t policy_generation = 0;  // 0: no policy is in force
};

// A workload of the policy in force, and where it is on this host now.
struct WorkloadPlace {
  std::string title;
  uint32_t identity = 0;
  bool has_cgroup = false;
  std::string path;         // of its cgroup below the mount: where it is, or where it is waited for; empty: not known
  uint64_t cgroup = 0;      // its id; 0: it is not there
  bool comes_back = false;  // a cgroup that is made at `path` is the workload at once
  bool has_netns = false;
  uint32_t netns = 0;  // inode; 0: it is not there
  std::optional<uint32_t> uid;
  bool is_here = true;    // false: on other hosts alone
  std::string spiffe;     // who it is there; empty: nobody
  sh_remote remote = {};  // likewise, to the kernel side
  std::string note;       // why it cannot be found now; empty: it is there

  bool found() const { return (!has_cgroup || cgroup != 0) && (!has_netns || netns != 0); }
};

// The policy in force.
struct PolicyReport {
  uint32_t generation = 0;  // 0: none
  size_t subjects = 0, entries = 0, networks = 0, sets = 0;
  size_t blocks = 0, blocks_max = 0;    // of one policy: half of policy.blocks
  size_t results = 0, results_max = 0;  // likewise
  std::vector<WorkloadPlace> workloads;
};

// One end of a connection, or who could be one: what the kernel side tells its identity by.
struct PolicyEnd {
  std::string path;               // of its cgroup below the mount; empty: the cgroup is gone
  std::vector<uint64_t> cgroups;  // the ids of this one and those above it
  uint32_t netns = 0;             // inode; 0: not known
  uint32_t uid = SH_POLICY_UID_ANY;
  uint32_t tgid = 0;  // 0: nobody
  std::string program;
  std::string local;  // of a connection: "127.0.0.1:80"
  uint16_t port = 0;  // likewise
  uint64_t cookie = 0;
  sh_remote remote = {};  // for whom an enrolled socket stands
};

struct PolicyPair {
  PolicyEnd client, server;
};

// The policy in force, as the kernel side reads it.
class PolicyTables : public PolicySource {
 public:
  virtual uint32_t generation() const = 0;  // 0: there is no policy
  virtual sh_policy_existing existing() const = 0;
  virtual sh_u32 identity_of_end(const PolicyEnd& end) const = 0;
};

// A connected pair of sockets: the channel, and the end that keeps it connected.
struct PuntChannel {
  uint32_t index = 0;
  UniqueFd socket, other;
};

struct PuntChannels {
  UniqueFd page;  // a map, struct sh_punt_page: the proxy maps it
  std::vector<PuntChannel> channels;
};

// What the gateway needs of the kernel side. They are of use as long as these programs are in force.
struct GatewayMaps {
  UniqueFd remotes;  // to write: for whom a socket of its own stands
  UniqueFd dialled;  // to read: what was dialled at the other end of a socket of its own
};

// A service on another host: what local processes dial, and where the gateway takes the connections.
struct OutboundService {
  sh_service_key key = {};
  sh_service value = {};
};

struct Outbound {
  std::vector<OutboundService> services;
  std::vector<std::string> cgroups;  // whose connections are brought to the gateway: paths below the mount
};

// A service of this host that the gateway brings connections to, or does not.
struct HostService {
  std::string name;
  std::array<uint8_t, SH_ADDR_BYTES> address{};  // of the server; on the loopback or zero: in the gateway's namespace
  uint16_t port = 0;
  bool strict = false;  // other hosts reach it through the gateway alone
};

// How strict services are kept.
struct StrictReport {
  uint32_t strict = 0;               // services
  std::vector<std::string> nowhere;  // of these, names of those whose address no one namespace of this host has
  std::optional<Error> error;        // of what could not be done; it is tried again
};

// A server that the clients reach through the fallback proxy which nobody else can judge.
struct SteeredServer {
  uint32_t slot = 0;
  std::array<uint8_t, SH_ADDR_BYTES> address{};  // that it listens on; zero: any
  uint16_t port = 0;
  uint32_t identity = 0;  // in the policy in force
  UniqueFd socket;        // the proxy's, which gets those clients; empty: it was handed out before
};

struct SteeredServers {
  bool scanned = false;                // false: nobody looked; `servers` says nothing
  std::vector<SteeredServer> servers;  // all that are steered now
  std::optional<Error> error;          // of what could not be done; it is tried again
};

struct ProfileRow {
  uint64_t id = 0;
  sh_profile value;
};

struct DrainReport {
  uint32_t left = 0;      // sockets taken out of the map
  std::vector<Row> kept;  // sockets that could not be taken out: somebody is inside a call, or bytes are unread
  uint32_t closed = 0;    // sockets that TCP has closed, which stay in the map until their programs close them, too
  bool clean() const { return kept.empty(); }
};

// Called about ten times a second during long work: sockets left to do.
using DrainProgress = std::function<void(uint32_t remaining)>;

class Engine {
 public:
  // Loads the programs, or adopts the pinned ones of the same layout and swaps in this build's code. Nothing is
  // attached yet. Errors name what the kernel lacks and the remedy.
  static Result<std::unique_ptr<Engine>> open(const Paths& paths, const ProbeReport& probe, const Settings& settings);
  ~Engine();  // leaves the pins and everything attached: the kernel side goes on

  // Puts new settings in force for new connections. On an error the old ones stay in force whole.
  Result<void> apply(const Settings& settings);

  Result<void> attach();  // mode ON; attaches to the cgroups of the selection
  // Mode DRAIN, takes sockets out of the map until `deadline` has passed, detaches. The pins stay.
  Result<DrainReport> detach(std::chrono::milliseconds deadline, const DrainProgress& progress = {});

  Result<Status> status() const;
  Result<std::vector<Row>> list() const;
  Result<Counters> counters() const;
  Result<std::vector<ProfileRow>> profiles() const;

  // Watches over socket options in a cgroup below the attached ones, so that its sockets may be enrolled; what the
  // engine does by itself when the kernel side asks. `cgroup`: a path as in the selection.
  Result<void> guard(const std::string& cgroup);

  // Puts a policy in force instead of the one before, at once; nothing: none. On an error the one before stays in force
  // whole, and the message names the limit. Before attach() it takes effect with attach().
  Result<void> set_policy(const PolicyRows* rows, sh_policy_existing existing);
  // Looks again for workloads that were not there, or moved: were there any? To be called once a second or so, and when
  // policy_settled_fd() is readable; costs little.
  Result<bool> refresh_policy();
  // An eventfd, which the caller reads: the kernel side has let go of the policy before.
  int policy_settled_fd() const;
  // Its generation alone is known of a policy that an earlier process put in force.
  PolicyReport policy() const;
  // How often the rules of the policy in force decided a request: by the number of an entry's origin in its rows the
  // requests that no single rule decided, and behind it those of each rule. A number beyond is not counted.
  std::vector<uint64_t> policy_hits() const;
  // How requests were answered; empty where Settings::tell_responses is not set, and was not.
  Result<std::vector<ResponseRow>> responses() const;
  void forget_responses(uint32_t generation) const;     // those under policies before this generation
  std::unique_ptr<PolicyTables> policy_tables() const;  // not for longer than the policy is in force

  // Both ends of all live connections, in all network namespaces, as the policy in force sees them. This and the next
  // one take their time and may run in a thread of their own, beside everything else.
  Result<std::vector<sh_live>> live_connections() const;
  // Resets them, and tells of each that the policy forbids it now: SH_EV_FORBIDDEN with SH_R_POLICY_CHANGED. Returns
  // how many.
  Result<size_t> end_connections(std::vector<sh_event> connections) const;

  Result<PolicyEnd> end_of_process(uint32_t tgid) const;
  // A unit ("api.service") or a path below the mount. Namespace and user are those of a process in it, if there is one.
  Result<PolicyEnd> end_of_cgroup(const std::string& name) const;
  // A live connection by the addresses of one of its ends ("127.0.0.1:80"); its other end is found by cookie, through
  // any NAT. An enrolled end says who is the client; else it is `local`.
  Result<PolicyPair> find_pair(const std::string& local, const std::string& remote) const;

  // Punt channels for a fallback proxy (bpf/abi/punt.h), in place of all that were made before. `count`: at most
  // SH_CHANNELS_MAX. New requests use them as soon as the proxy writes its heartbeat.
  Result<PuntChannels> make_channels(uint32_t count);
  // The proxy is gone: connections of which it has a request are reset, new ones are answered by the kernel side.
  Result<void> end_channels();
  // Is this the page of channels of these programs? They may have been made by an earlier process.
  bool owns_channels(int page) const;

  // This process, of a user and with a cgroup (a path below the mount), is the gateway: its sockets may stand for
  // workloads on other hosts. It takes the place of any before. Its cgroup becomes governed like a workload's.
  // `netns`: the inode of its network namespace.
  Result<GatewayMaps> admit_gateway(uint32_t uid, const std::string& cgroup, uint32_t netns);
  Result<void> dismiss_gateway();  // it is gone: its sockets stand for themselves
  // Before attach() it takes effect with attach(), but for the services.
  Result<void> set_outbound(Outbound outbound);

  // From now on plaintext of other hosts to strict services among these is refused by a RST, and to no others. Before
  // attach() it takes effect with attach().
  Result<void> set_local_services(std::vector<HostService> services);
  // Follows addresses and namespaces that come and go. To be called once a second or so, and after each read_events().
  StrictReport keep_strict();

  // Connections of this process are taken for judged by servers that it may forward to, until end_steering(). `keeps`:
  // it still has what it was handed out; else everything before is void. Returns a map for the proxy to read, by its
  // own sockets: a struct sh_steered for each that it accepts.
  Result<UniqueFd> admit_proxy(uint32_t tgid, bool keeps);
  void end_steering();
  // Looks for servers whose clients are to be steered to the proxy, and has them steered. To be called once a second or
  // so, which costs little; `scan`: now, because something has changed.
  SteeredServers steered_servers(bool scan);

  // Events. The ring is read by one reader at a time; `on_event` gets each record, but for those that the engine
  // answers itself: SH_EV_ABANDONED by resetting the socket, SH_EV_GUARD by watching over the cgroup. SH_EV_FORBIDDEN
  // is answered by a reset, where there was none yet, and handed on; SH_EV_LISTENS makes the next steered_servers()
  // look. Returns how many were read.
  int events_fd() const;  // epoll-able
  Result<int> read_events(const std::function<void(const sh_event&)>& on_event);
  void want_events(
      bool wanted);  // whether the programs write informative records (requests to verify are always written)

  // Answers an SH_EV_VERIFY: inspects the process and puts the verdict in force. Unknown or gone processes are no
  // error.
  Result<void> verify_process(uint32_t tgid);
  // Finds listeners that are older than the programs, in all network namespaces, and watches over the cgroups of
  // receivers that run already, so that their next connection is enrolled.
  Result<void> scan_sockets();

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Why one socket is or isn't accelerated, from the pins alone.
struct WhyQuery {
  uint32_t tgid = 0;  // or:
  std::string addr;   // "ADDR:PORT", "[ADDR]:PORT" or ":PORT", either end
};

struct WhyRow {
  std::string local;  // "127.0.0.1:80"
  std::string remote;
  std::string program;
  uint32_t tgid = 0;
  bool enrolled = false;
  uint32_t state = 0;   // enum sh_state, if enrolled
  uint32_t reason = 0;  // enum sh_reason
  std::string detail;   // a sentence with the remedy
};

// All of these work from the pins, with the daemon dead.
Result<Status> pinned_status(const Paths& paths);
Result<std::vector<Row>> pinned_list(const Paths& paths);
Result<Counters> pinned_counters(const Paths& paths);
Result<std::vector<WhyRow>> pinned_why(const Paths& paths, const WhyQuery& query);

// Stops, drains and removes every generation: what `shunt off` (keep_pins) and `shunt cleanup` do when no daemon runs.
Result<DrainReport> drain_pinned(const Paths& paths, std::chrono::milliseconds deadline, bool keep_pins,
                                 const DrainProgress& progress = {});

}  // namespace shunt
