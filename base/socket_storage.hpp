// A map of socket storage, by descriptors of the process's own sockets: needs no privilege once the map is open.
#pragma once

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace shunt {

// `value`: of the map's size. False: errno says why (ENOENT: the socket has none).
inline bool call_socket_storage(bpf_cmd command, int map, int socket, void* value) {
  bpf_attr attr{};
  attr.map_fd = static_cast<uint32_t>(map);
  attr.key = reinterpret_cast<uint64_t>(&socket);
  attr.value = reinterpret_cast<uint64_t>(value);
  return syscall(SYS_bpf, command, &attr, sizeof(attr)) == 0;
}

inline bool read_socket_storage(int map, int socket, void* value) {
  return call_socket_storage(BPF_MAP_LOOKUP_ELEM, map, socket, value);
}

inline bool write_socket_storage(int map, int socket, void* value) {
  return call_socket_storage(BPF_MAP_UPDATE_ELEM, map, socket, value);
}

}  // namespace shunt
