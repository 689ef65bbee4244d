// The addresses of this host, in all its network namespaces, for the kernel side: who calls from one of them is no
// client from elsewhere.
#pragma once

#include <array>
#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <cstdint>
#include <map>
#include <vector>

namespace shunt {

class OwnAddresses {
 public:
  explicit OwnAddresses(int map) : map_(map) {}

  Result<void> look(const std::vector<UniqueFd>& namespaces);
  // The inode of the one namespace that had it at the last look; 0: none, or several.
  uint32_t namespace_of(const std::array<uint8_t, 16>& address) const;

 private:
  using Found = std::map<std::array<uint8_t, 16>, uint32_t>;  // to the namespace's inode; 0: several have it

  Result<void> write(const Found& found);

  int map_;
  bool known_ = false;  // what lies in the map
  Found written_;
};

}  // namespace shunt
