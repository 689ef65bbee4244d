// The keys of a map that the kernel side may change meanwhile.
#pragma once

#include <bpf/bpf.h>

#include <cerrno>
#include <cstdint>

namespace shunt {

// How many entries a map has room for.
inline uint32_t capacity(int map) {
  bpf_map_info info = {};
  uint32_t bytes = sizeof(info);
  return bpf_obj_get_info_by_fd(map, &info, &bytes) == 0 ? info.max_entries : 0;
}

// Calls `visit` with each key of a hash-like map, or with a part of them and some twice: the walk begins anew where a
// key has gone meanwhile, and ends after twice as many keys as the map has room for. `visit` adds and removes none. 0,
// or the errno of what failed.
template <typename K, typename Visit>
int for_each_key(int map, Visit visit) {
  K key = {}, next = {};
  uint64_t left = 2ULL * capacity(map);
  int error = bpf_map_get_next_key(map, nullptr, &next) == 0 ? 0 : errno;
  for (; error == 0 && left > 0; left--) {
    key = next;
    visit(static_cast<const K&>(key));
    error = bpf_map_get_next_key(map, &key, &next) == 0 ? 0 : errno;
  }
  return error == ENOENT ? 0 : error;
}

}  // namespace shunt
