#include "socket/stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "support/checked_bytes.hpp"

namespace shunt::test {

namespace {

constexpr uint64_t kTurnsMax = 24;
constexpr uint64_t kFaultBytesMin = 200;
constexpr uint64_t kFaultAtMax = 1 << 18;  // in an endless stream too

}  // namespace

Script make_script(uint64_t seed, uint64_t turn_bytes_max) {
  Rng rng(seed);
  Script script;
  uint64_t first_end = sizeof(StreamHeader), second_end = sizeof(StreamHeader);
  const uint64_t turns = pick(rng, 1, kTurnsMax);
  uint64_t needed = 0;
  for (uint64_t turn = 0; turn < turns; ++turn) {
    const uint64_t small = std::min<uint64_t>(300, turn_bytes_max);
    first_end += pick(rng, 1, one_in(rng, 5) ? turn_bytes_max : small);
    script.first.push_back({first_end, needed});
    second_end += pick(rng, 1, one_in(rng, 5) ? turn_bytes_max : small);
    script.second.push_back({second_end, first_end});
    needed = second_end;
  }
  return script;
}

Outgoing::Outgoing(uint64_t seed, uint64_t script_seed, std::vector<Segment> segments, Fault fault)
    : header_{kStreamMagic, seed, segments.back().end, script_seed}, segments_(std::move(segments)) {
  if (header_.total_bytes < kFaultBytesMin) return;
  fault_ = fault;
  fault_at_ =
      sizeof(StreamHeader) + mix(seed) % (std::min(header_.total_bytes, kFaultAtMax) - sizeof(StreamHeader) - 2);
}

uint64_t Outgoing::allowed(uint64_t received) {
  while (segment_ < segments_.size() && segments_[segment_].end == sent_) ++segment_;
  if (segment_ == segments_.size() || received < segments_[segment_].need) return 0;
  return segments_[segment_].end - sent_;
}

size_t Outgoing::next(char* to, size_t bytes) {
  size_t filled = 0;
  if (sent_ < sizeof(header_)) {
    filled = std::min<size_t>(bytes, sizeof(header_) - sent_);
    std::memcpy(to, reinterpret_cast<const char*>(&header_) + sent_, filled);
  }
  const uint64_t from = sent_ + filled;
  fill_pattern(header_.seed, from, to + filled, bytes - filled);
  if (vanished() || (fault_ == Fault::vanish && fault_at_ == sent_)) {
    sent_ += bytes;
    return 0;
  }
  if (fault_ == Fault::none || fault_at_ < from || fault_at_ >= sent_ + bytes) return bytes;

  const size_t at = fault_at_ - sent_;
  switch (fault_) {
    case Fault::flip:
      to[at] ^= 1;
      return bytes;
    case Fault::swap:
      if (at + 1 < bytes) std::swap(to[at], to[at + 1]);
      return bytes;
    case Fault::drop:  // the byte is skipped, its place counts as sent
      std::memmove(to + at, to + at + 1, bytes - at - 1);
      sent_ += 1;
      fault_ = Fault::none;
      return bytes - 1;
    case Fault::stall:
    case Fault::truncate:
    case Fault::vanish:
      return at;
    case Fault::deaf:
    case Fault::none:
      break;
  }
  return bytes;
}

bool Incoming::feed(const char* from, size_t bytes) {
  if (received_ < sizeof(header_)) {
    const size_t part = std::min<size_t>(bytes, sizeof(header_) - received_);
    std::memcpy(reinterpret_cast<char*>(&header_) + received_, from, part);
    received_ += part;
    from += part;
    bytes -= part;
    if (has_header() && (header_.magic != kStreamMagic || header_.total_bytes < sizeof(header_))) {
      error_ = "the stream does not begin with its header";
      return false;
    }
  }
  if (bytes == 0) return true;
  const size_t wrong = pattern_mismatch(header_.seed, received_, from, bytes);
  if (wrong < bytes) {
    error_ = fmt::format("wrong byte at {} of {}", received_ + wrong, header_.total_bytes);
    return false;
  }
  received_ += bytes;
  if (received_ > header_.total_bytes) {
    error_ = fmt::format("{} bytes, {} were sent", received_, header_.total_bytes);
    return false;
  }
  return true;
}

}  // namespace shunt::test
