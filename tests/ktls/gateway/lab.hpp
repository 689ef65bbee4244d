// Two hosts (network namespaces) with a gateway each: host a has the clients, host b the services. What crosses the
// wire between them is recorded and looked at in every test.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "ktls/forge.hpp"
#include "ktls/gateway/recorder.hpp"
#include "support/sandbox.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

inline constexpr char kAddressA[] = "10.77.0.1", kAddressB[] = "10.77.0.2";
inline constexpr uint16_t kMeshPort = 15443;
inline constexpr uint16_t kEchoPort = 7001;  // on both hosts: of the test's own server, and where a's clients find it
inline constexpr uint16_t kWebPort = 7002;
inline constexpr uint16_t kNobodyPort = 7003;  // a service whose server is not there

// "off" on kernels without kTLS; the guests say "required" (SHUNT_TEST_KTLS).
std::string ktls_use();

// Certificates of one host in a folder of its own, for the user of the gateway; crl.pem and deny, if a test has put
// them there before the gateway starts.
struct HostFiles {
  std::string folder;
  void write(const Forged& leaf, const std::string& bundle) const;  // moves each into place
};

// What ends a socket: 0 for an end, else the errno; bytes on the way are passed over.
int ending_of(int fd);

class Gateway {
 public:
  Gateway(const NetNs& ns, const std::string& folder, const std::string& config);

  bool ready();  // waits
  std::string log() const { return read_text(folder_ + "/log"); }
  std::string status() const;
  // Waits for a line of the log with all of these.
  bool says(const std::vector<std::string>& parts) const;
  Child& process() { return process_; }
  uint64_t resident_bytes() const;

 private:
  std::string folder_;
  Child process_;
};

class Mesh {
 public:
  // `more`: further lines of both configurations.
  explicit Mesh(const std::string& more = {});
  ~Mesh();

  Forged leaf(const std::string& id, const Forged& issuer) const;
  void start_a();
  void start_b();

  // Sockets of the hosts.
  UniqueFd listen_b(uint16_t port) const;
  UniqueFd connect_a(uint16_t port) const;  // a local client of host a
  int ending_at_a(uint16_t port) const;     // of a local client; it may be reset within connect()
  void await_listener(const NetNs& ns, uint16_t port) const;
  UniqueFd connect_mesh() const;                        // from host a to the gateway of host b, without its own
  Connection connect_through_mesh(int listener) const;  // to the echo service: the client, and what the server accepted

  TempDir folder;
  Forged ca = forge(ca_plan("mesh CA"));
  NetNs ns_a, ns_b;
  HostFiles files_a, files_b;
  std::unique_ptr<Gateway> a, b;
  bool plaintext_sent = false;  // the test itself sent some to the mesh's port

 private:
  std::string config_head(const HostFiles& files) const;

  std::string more_;
  std::unique_ptr<Recorder> recorder_;
};

// Both hosts get new certificates every second, while it lives.
class Rotation {
 public:
  explicit Rotation(const Mesh& mesh);
  ~Rotation();
  Rotation(const Rotation&) = delete;
  Rotation& operator=(const Rotation&) = delete;

  size_t count() const { return count_; }

 private:
  void run();

  const Mesh& mesh_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::atomic<size_t> count_{0};
  std::thread thread_;
};

}  // namespace shunt::test
