// One thread of the gateway: the connections that it took, and the listening sockets that it shares with the others.
#pragma once

#include <future>
#include <ktls/gateway/link.hpp>
#include <list>
#include <thread>
#include <unordered_map>

namespace shunt::gateway {

struct Listening {
  UniqueFd socket;
  Endpoint endpoint{};
  const RemoteService* service = nullptr;  // whose it is
  bool hooks = false;                      // for all that are dialled; neither: of the mesh
};

class Worker final : public LinkHome {
 public:
  Worker(Shared& shared, const std::vector<Listening>& listening, uint64_t handshakes_max)
      : shared_(shared), listening_(listening), handshakes_max_(handshakes_max) {}
  ~Worker() override;

  Result<void> start();  // its thread
  void stop();           // from any thread: takes nothing new, and ends with its last connection or timeouts.stop
  void join();

  EventLoop& loop() override { return *loop_; }
  Shared& shared() override { return shared_; }
  Milliseconds now() override { return now_; }
  std::span<uint8_t> scratch() override { return scratch_; }
  void handshake_over(Link& link) override;
  void link_done(Link& link) override;

 private:
  Result<void> open();
  void run();
  void accept(const Listening& listening);
  const RemoteService* dialled_service(int socket) const;
  void turn_away(UniqueFd socket, const Endpoint& client);
  bool listen(bool on);
  void take(UniqueFd socket, const Endpoint& client, const RemoteService* service);
  void tick();
  void begin_stop();
  void look_at_security(const std::vector<Link*>& links);

  Shared& shared_;
  const std::vector<Listening>& listening_;
  uint64_t handshakes_max_;
  std::unique_ptr<EventLoop> loop_;
  UniqueFd wake_;
  std::vector<uint8_t> scratch_;
  Milliseconds now_{0};
  std::shared_ptr<const Security> security_;
  std::optional<Recheck> recheck_;  // while connections are judged by other bundles than before
  Milliseconds recheck_began_{0};
  bool accepting_ = false;
  bool stopping_ = false;
  Milliseconds stop_at_{0};
  std::unordered_map<Link*, std::unique_ptr<Link>> links_;
  std::vector<std::unique_ptr<Link>> done_;  // freed when nothing of theirs is on the stack
  std::list<Link*> handshakes_;              // of the mesh, unfinished; the oldest first
  std::thread thread_;
};

}  // namespace shunt::gateway
