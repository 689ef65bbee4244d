#include "socket/rounds.hpp"

#include <algorithm>

#include "support/sandbox.hpp"

namespace shunt::test {

namespace {

int64_t wall_ns() {
  return std::chrono::duration_cast<Rounds::Time>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void Rounds::begin(Time stall_limit) {
  stall_limit_ = stall_limit;
  round_begin_.store(wall_ns());
}

uint32_t Rounds::join() {
  const uint32_t member = members_.fetch_add(1);
  require(member < kMembersMax, "the checker has too many threads");
  seen_[member].store(round_.load());
  return member;
}

void Rounds::leave(uint32_t member) { seen_[member].store(kAway); }

bool Rounds::all_have_seen(uint64_t round) const {
  const uint32_t members = std::min(members_.load(), kMembersMax);
  return std::all_of(seen_.begin(), seen_.begin() + members, [&](const auto& seen) { return seen.load() >= round; });
}

bool Rounds::turn(uint32_t member) {
  uint64_t round = round_.load();
  seen_[member].store(round);
  const int64_t now = wall_ns();
  const int64_t taken = now - round_begin_.load();
  if (!all_have_seen(round)) {
    int64_t nobody = 0;
    return taken > kStuckLimits * stall_limit_.count() && stuck_since_.compare_exchange_strong(nobody, now);
  }
  // Whoever begins the next round is one of those for whom it has to wait: nobody else gets here before it is back.
  if (!round_.compare_exchange_strong(round, round + 1)) return false;
  round_begin_.store(now);
  clock_.fetch_add(std::min(taken, stall_limit_.count() / kPerStall));
  longest_.store(std::max(longest_.load(), taken));
  return false;
}

Rounds::Time Rounds::longest() const { return Time(std::max(longest_.load(), wall_ns() - round_begin_.load())); }

Rounds::Time Rounds::now() const {
  const int64_t stuck_since = stuck_since_.load();
  return Time(clock_.load() + (stuck_since == 0 ? 0 : wall_ns() - stuck_since));
}

}  // namespace shunt::test
