// Streams that check themselves: a header says how many bytes follow and by which seed, every byte depends on its
// position.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace shunt::test {

using Rng = std::mt19937_64;

inline uint64_t pick(Rng& rng, uint64_t low, uint64_t high) {
  return std::uniform_int_distribution<uint64_t>(low, high)(rng);
}
inline bool one_in(Rng& rng, uint64_t n) { return pick(rng, 1, n) == 1; }

// What a sender does wrong on purpose, to see that the checker notices.
// `vanish`: from somewhere on, what counts as sent never arrives. `deaf` is a reader's: it is not told of what it could
// read, as with a lost wake-up.
enum class Fault { none, drop, swap, flip, stall, truncate, vanish, deaf };

struct StreamHeader {
  uint64_t magic;
  uint64_t seed;
  uint64_t total_bytes;  // with this header
  uint64_t script_seed;  // of a conversation in turns
};
inline constexpr uint64_t kStreamMagic = 0x5348554e54313031;

// Bytes up to `end` may be sent once `need` bytes were received.
struct Segment {
  uint64_t end;
  uint64_t need;
};

// A conversation in turns, the same on both ends: sizes of requests and responses, by seed.
struct Script {
  std::vector<Segment> first;  // of the end that speaks first
  std::vector<Segment> second;
};
Script make_script(uint64_t seed, uint64_t turn_bytes_max);

class Outgoing {
 public:
  Outgoing() = default;
  Outgoing(uint64_t seed, uint64_t script_seed, std::vector<Segment> segments, Fault fault);

  uint64_t total() const { return segments_.empty() ? 0 : segments_.back().end; }
  uint64_t sent() const { return sent_; }
  bool done() const { return sent_ == total(); }
  uint64_t allowed(uint64_t received);  // bytes that may be sent now

  // Fills `to` with the next bytes; returns how many to pass to send(), at most `bytes`. 0: a fault holds them back.
  size_t next(char* to, size_t bytes);
  void advance(size_t bytes) { sent_ += bytes; }
  bool cut_short() const { return fault_ == Fault::truncate && sent_ >= fault_at_; }
  bool vanished() const { return fault_ == Fault::vanish && sent_ > fault_at_; }

 private:
  StreamHeader header_{};
  std::vector<Segment> segments_;
  size_t segment_ = 0;
  uint64_t sent_ = 0;
  Fault fault_ = Fault::none;
  uint64_t fault_at_ = 0;
};

class Incoming {
 public:
  // False: a byte was wrong, error() says which.
  bool feed(const char* from, size_t bytes);

  uint64_t received() const { return received_; }
  bool has_header() const { return received_ >= sizeof(StreamHeader); }
  const StreamHeader& header() const { return header_; }
  bool complete() const { return has_header() && received_ == header_.total_bytes; }
  const std::string& error() const { return error_; }

 private:
  StreamHeader header_{};
  uint64_t received_ = 0;
  std::string error_;
};

}  // namespace shunt::test
