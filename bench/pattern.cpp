#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bench/pattern.hpp>
#include <cstdlib>
#include <random>

namespace shunt::bench {

Pattern::Pattern(size_t message_bytes_max) : bytes_(kPeriodBytes + message_bytes_max) {
  std::mt19937_64 random(20240607);
  for (size_t i = 0; i < kPeriodBytes; i++) bytes_[i] = static_cast<unsigned char>(random());
  for (size_t i = kPeriodBytes; i < bytes_.size(); i++) bytes_[i] = bytes_[i - kPeriodBytes];
}

StreamHash::StreamHash() : state_(XXH3_createState()) {
  if (!state_) abort();
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_));
}

StreamHash::~StreamHash() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }

void StreamHash::add(const void* data, size_t bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), data, bytes);
}

uint64_t StreamHash::value() const { return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_)); }

uint64_t pattern_hash(const Pattern& pattern, uint64_t bytes) {
  StreamHash hash;
  for (uint64_t offset = 0; offset < bytes;) {
    size_t chunk = std::min<uint64_t>(Pattern::kPeriodBytes, bytes - offset);
    hash.add(pattern.at(offset), chunk);
    offset += chunk;
  }
  return hash.value();
}

}  // namespace shunt::bench
