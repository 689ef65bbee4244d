// Rows of a policy's maps, written and removed.
#pragma once

#include <bpf/bpf.h>

#include <algorithm>
#include <base/result.hpp>
#include <cstdint>
#include <sockops/map_walk.hpp>
#include <string>
#include <vector>

namespace shunt {

// A number of the compiler's in a half: those of two halves never meet.
inline uint32_t in_half(uint32_t number, uint32_t half) { return number << 1 | half; }

template <typename K, typename V>
Result<void> write_row(int map, const K& key, const V& value, const char* what) {
  if (bpf_map_update_elem(map, &key, &value, BPF_ANY) == 0) return {};
  return unexpected(errno, std::string("cannot write the policy's ") + what,
                    errno == E2BIG ? "the kernel's table is full" : "");
}

// Rows of an array, of which `values` has as many as there are keys, in as few calls as the kernel takes.
template <typename V>
Result<void> write_rows(int map, const std::vector<uint32_t>& keys, const V* values, const char* what) {
  constexpr size_t kAtOnce = (size_t{1} << 20) / sizeof(V);  // the kernel copies no more than it finds memory for
  for (size_t at = 0; at < keys.size(); at += kAtOnce) {
    auto count = static_cast<uint32_t>(std::min(kAtOnce, keys.size() - at));
    if (bpf_map_update_batch(map, keys.data() + at, values + at, &count, nullptr) != 0)
      return unexpected(errno, std::string("cannot write the policy's ") + what);
  }
  return {};
}

// Removes the keys for which `stale` holds. The kernel side may add keys meanwhile.
template <typename K, typename Stale>
void remove_if(int map, Stale stale) {
  std::vector<K> gone;
  for_each_key<K>(map, [&](const K& key) {
    if (stale(key)) gone.push_back(key);
  });
  for (const K& one : gone) bpf_map_delete_elem(map, &one);
}

}  // namespace shunt
