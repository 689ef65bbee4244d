// One thread of the proxy: a ring, the connections it took, and the listening sockets that it shares with the others.
#pragma once

#include <atomic>
#include <fallback-proxy/access_log.hpp>
#include <fallback-proxy/channel.hpp>
#include <fallback-proxy/counters.hpp>
#include <fallback-proxy/session.hpp>
#include <fallback-proxy/shuntd_link.hpp>
#include <fallback-proxy/sources.hpp>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace shunt::proxy {

class Worker final : public SessionHome, public StreamHome, public ChannelHome {
 public:
  Worker(std::shared_ptr<const Runtime> runtime, const std::vector<ListeningSocket>& sockets, AccessLog& access_log,
         Counters& counters, const PolicyStore& channel_policies);
  ~Worker() override;

  Result<void> start();  // its thread
  void join();

  // From any thread.
  void use(std::shared_ptr<const Runtime> runtime);
  void use(std::vector<ChannelSockets> channels);  // those before end when they are idle
  void use(SteeredServers servers);                // all there are now
  void stop();  // takes nothing new, lets what runs finish until the deadline of the configuration, and ends

  // Whether it may still take connections from the listening sockets.
  bool accepts() const { return accepts_; }
  // Has its loop turned not long ago?
  bool alive() const;

  // The seam: a connection from any source. From the worker's own thread.
  void take(Arrival arrival);

  // For sessions and streams.
  std::shared_ptr<const Runtime> runtime() override { return runtime_; }
  Milliseconds now() override { return now_; }
  bool stopping() override { return stopping_; }
  Stream& new_stream() override;
  AccessLog& access_log() override { return access_log_; }
  Counters& counters() override { return counters_; }
  const Config& config() override { return runtime_->config; }
  PolicyStore::Compiled channel_policies() override { return channel_policies_.get(); }
  void wait_for_turn(Channel& channel) override { waiting_.push_back(&channel); }
  size_t next_upstream(size_t listener) override { return next_upstream_[listener]++; }
  void session_done(Session& session) override;
  void stream_free(Stream& stream) override;
  Ring& ring() override { return ring_; }

 private:
  struct Acceptor;
  struct Wake;

  void run(std::promise<Result<void>> started);
  void look();  // at what other threads asked for
  void tick();
  void take_servers(const SteeredServers& servers);
  void end_channels();
  void retry_channels();
  bool accepting() const;
  bool idle() const;

  std::shared_ptr<const Runtime> runtime_;
  AccessLog& access_log_;
  Counters& counters_;
  const PolicyStore& channel_policies_;
  Ring ring_;
  Milliseconds now_{0};
  Milliseconds ticked_{0};
  bool stopping_ = false;
  Milliseconds stop_at_{0};
  std::vector<size_t> next_upstream_;
  std::vector<std::unique_ptr<Acceptor>> acceptors_;  // one that is retired stays until the kernel has let go of it
  std::unique_ptr<Wake> wake_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<std::unique_ptr<Session>> done_;  // freed when nothing of theirs is on the stack
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<Stream*> free_streams_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<Channel*> waiting_;  // for their turn
  std::chrono::microseconds retry_after_{0};
  std::chrono::steady_clock::time_point retry_at_;

  std::atomic<bool> accepts_{true};
  std::atomic<int64_t> turned_ms_{0};
  std::mutex mutex_;
  std::shared_ptr<const Runtime> next_runtime_;
  std::optional<std::vector<ChannelSockets>> next_channels_;
  std::optional<SteeredServers> next_servers_;
  bool stop_asked_ = false;
  std::thread thread_;
};

}  // namespace shunt::proxy
