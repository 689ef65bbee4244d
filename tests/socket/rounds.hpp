// The time of the traffic checker. A connection stalls if nothing moves on it although everybody looks; a thread that
// has no CPU, or a process that is stopped, does not look. So silence is not measured in seconds but in rounds: one is
// over when each thread that drives connections has been through all of its own.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace shunt::test {

// In memory that all processes of the checker share; zero-initialised.
class Rounds {
 public:
  using Time = std::chrono::nanoseconds;

  // However fast rounds are, silence is a stall only after its limit; however slow, only after so many. What an end
  // does slowly on purpose takes far fewer.
  static constexpr int64_t kPerStall = 1000;
  // A round that takes so many limits is an error of its own: nothing can be said about the connections.
  static constexpr int64_t kStuckLimits = 6;

  void begin(Time stall_limit);  // before anybody joins

  uint32_t join();  // what a thread gives to the others; dies if there are too many
  void leave(uint32_t member);
  // All connections of this thread were looked at. True once, for the first who sees that somebody is stuck.
  bool turn(uint32_t member);

  Time now() const;  // goes on by at most limit / kPerStall in a round; as the clock on the wall once somebody is stuck
  bool stuck() const { return stuck_since_.load() != 0; }
  Time longest() const;  // round, with the present one: somebody did not look for so long

 private:
  static constexpr uint32_t kMembersMax = 256;
  static constexpr uint64_t kAway = UINT64_MAX;

  bool all_have_seen(uint64_t round) const;

  Time stall_limit_{};
  std::atomic<uint32_t> members_;
  std::array<std::atomic<uint64_t>, kMembersMax> seen_;  // the last round that each has come to
  std::atomic<uint64_t> round_;
  std::atomic<int64_t> round_begin_;
  std::atomic<int64_t> clock_;
  std::atomic<int64_t> longest_;
  std::atomic<int64_t> stuck_since_;
};

// Membership of one thread.
class RoundsMember {
 public:
  explicit RoundsMember(Rounds& rounds) : rounds_(rounds), member_(rounds.join()) {}
  ~RoundsMember() { rounds_.leave(member_); }
  RoundsMember(const RoundsMember&) = delete;
  RoundsMember& operator=(const RoundsMember&) = delete;
  bool turn() { return rounds_.turn(member_); }

 private:
  Rounds& rounds_;
  uint32_t member_;
};

}  // namespace shunt::test
