// Where file systems are mounted.
#pragma once

#include <fstream>
#include <sstream>
#include <string>

namespace shunt {

// The first mount point of a file system type whose root is visible ("cgroup2", "bpf"); empty: none.
inline std::string find_mount(const std::string& type) {
  std::ifstream mountinfo("/proc/self/mountinfo");
  for (std::string line; std::getline(mountinfo, line);) {
    // 36 35 98:0 ROOT MOUNT-POINT OPTIONS [TAGS...] - TYPE SOURCE OPTIONS
    std::istringstream fields(line);
    std::string id, parent, device, root, mount_point, word, found_type;
    fields >> id >> parent >> device >> root >> mount_point;
    while (fields >> word && word != "-") {
    }
    fields >> found_type;
    if (found_type != type || root != "/") continue;
    std::string plain;
    for (size_t i = 0; i < mount_point.size(); i++) {  // \040 stands for a space
      if (mount_point[i] == '\\' && i + 3 < mount_point.size()) {
        plain += static_cast<char>(std::stoi(mount_point.substr(i + 1, 3), nullptr, 8));
        i += 3;
      } else {
        plain += mount_point[i];
      }
    }
    return plain;
  }
  return {};
}

}  // namespace shunt
