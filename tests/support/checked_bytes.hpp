// Bytes that depend on a seed and on their position: a lost, doubled, moved or foreign byte shows at once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shunt::test {

inline uint64_t mix(uint64_t value) {  // splitmix64's finaliser
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

inline uint8_t pattern_byte(uint64_t seed, uint64_t position) {
  return static_cast<uint8_t>(mix(seed ^ (position / 8)) >> (position % 8 * 8));
}

inline void fill_pattern(uint64_t seed, uint64_t position, char* to, size_t bytes) {
  uint64_t word = mix(seed ^ (position / 8)) >> (position % 8 * 8);
  for (size_t i = 0; i < bytes; ++i, ++position) {
    if (position % 8 == 0) word = mix(seed ^ (position / 8));
    to[i] = static_cast<char>(word);
    word >>= 8;
  }
}

// Index of the first byte that is not the pattern's, or `bytes`.
inline size_t pattern_mismatch(uint64_t seed, uint64_t position, const char* from, size_t bytes) {
  uint64_t word = mix(seed ^ (position / 8)) >> (position % 8 * 8);
  for (size_t i = 0; i < bytes; ++i, ++position) {
    if (position % 8 == 0) word = mix(seed ^ (position / 8));
    if (static_cast<uint8_t>(from[i]) != static_cast<uint8_t>(word)) return i;
    word >>= 8;
  }
  return bytes;
}

}  // namespace shunt::test
