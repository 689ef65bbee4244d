// The payload of one-way streams: a pseudo-random pattern whose length is prime, so that no lost, repeated or exchanged
// run of messages leaves the stream as it should be; and the hash that both ends compare.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace shunt::bench {

class Pattern {
 public:
  static constexpr size_t kPeriodBytes = 65521;

  // `message_bytes_max`: the longest stretch that at() must give in one piece.
  explicit Pattern(size_t message_bytes_max);
  const unsigned char* at(uint64_t stream_offset) const { return bytes_.data() + stream_offset % kPeriodBytes; }

 private:
  std::vector<unsigned char> bytes_;
};

// XXH3 of a stream in pieces of any size: about 20 GB/s, so that hashing hides little of what is measured.
class StreamHash {
 public:
  StreamHash();
  ~StreamHash();
  StreamHash(const StreamHash&) = delete;
  StreamHash& operator=(const StreamHash&) = delete;
  void add(const void* data, size_t bytes);
  uint64_t value() const;

 private:
  void* state_;
};

// What the hash of the first `bytes` of the stream must be.
uint64_t pattern_hash(const Pattern& pattern, uint64_t bytes);

}  // namespace shunt::bench
