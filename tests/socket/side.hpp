// One end of a checked connection: what it sends and reads, how, and when it is done.
#pragma once

#include <atomic>
#include <base/unique_fd.hpp>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>

#include "socket/ledger.hpp"
#include "socket/stream.hpp"
#include "socket/traffic.hpp"

namespace shunt::test {

using Clock = std::chrono::steady_clock;

enum class SideState { active, done, failed, stalled };

class Side {
 public:
  Side(UniqueFd fd, Kind kind, bool connecting, uint64_t seed, const TrafficConfig& config, const Rounds& rounds);

  int fd() const { return fd_.get(); }
  Kind kind() const { return kind_; }
  bool connecting() const { return connecting_; }
  bool edge_triggered() const { return edge_triggered_; }
  bool early() const { return early_; }
  uint32_t events() const;  // for epoll
  uint64_t received() const { return in_.received(); }
  // Blocking receives that ended with EAGAIN before their time: a redirected socket wakes its reader for other reasons
  // too.
  uint64_t early_wakeups() const { return early_wakeups_; }
  const std::string& error() const { return error_; }

  SideState step();                       // without blocking: reads and writes what can be
  bool due(Clock::time_point now) const;  // a pause is over, or nothing has moved for too long
  bool deaf() const;                      // a fault: this end is not told of anything any more
  SideState run_blocking();               // with blocking calls, from two threads
  void watch_blocking();                  // by another thread meanwhile: ends them if nothing has moved for too long

 private:
  enum class Finish { half_close_early, half_close_late, close_at_once };
  enum class Io { moved, blocked, ended, failed };

  bool silent() const;  // this end sends nothing
  bool hears() const;   // the other end sends something
  bool may_be_cut() const { return kind_ == Kind::cut; }
  void start_stream();  // as soon as it is known what to say
  Io read_some(int flags);
  Io write_some(int flags);
  Io on_read_end(ssize_t n, int error);
  bool cut_now();
  bool finish_sending();  // shutdown when it is time; true if it was done now
  bool complete() const;
  size_t chunk_bytes();
  size_t read_most() const;
  void touch() { last_move_.store(rounds_.now()); }
  bool silent_too_long() const { return rounds_.now() - last_move_.load() > config_.stall_limit; }
  void fail(const std::string& what);
  SideState stalled_state(const char* where);
  void write_loop();
  bool waits_for_cpu();

  UniqueFd fd_;
  Kind kind_;
  bool connecting_;
  Rng rng_;
  Rng write_rng_;  // the writing thread's own
  const TrafficConfig& config_;
  const Rounds& rounds_;
  Fault fault_ = Fault::none;
  std::optional<Outgoing> out_;
  Incoming in_;
  Finish finish_;
  bool edge_triggered_;
  bool early_;
  bool one_read_per_event_;
  bool peeks_;
  bool slow_;
  bool tiny_chunks_;
  size_t read_bytes_;
  std::optional<uint64_t> cut_at_;
  bool cut_by_reset_ = false;
  bool cut_done_ = false;
  bool shut_ = false;
  bool eof_ = false;
  bool write_blocked_ = false;
  uint16_t peer_port_ = 0;
  uint64_t early_wakeups_ = 0;
  bool broken_ = false;  // the other end has cut the connection
  std::string error_;
  std::atomic<Rounds::Time> last_move_;
  Clock::time_point resume_at_{};
  bool paused_ = false;
  // Turns of the loop in which this end may leave something unread. The other end, which waits meanwhile, must not take
  // a slow reader for a stall, however long a turn takes.
  int slow_turns_left_ = 200;

  std::mutex mutex_;  // run_blocking(): the state that both threads use
  std::condition_variable changed_;
  std::atomic<pid_t> reader_{0}, writer_{0};  // threads
  int waits_for_cpu_left_ = 3;
};

}  // namespace shunt::test
