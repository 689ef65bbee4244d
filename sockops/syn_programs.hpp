// The program that looks at every SYN (bpf/steer.bpf.c): one in each network namespace in which somebody needs it.
#pragma once

#include <array>
#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <cstdint>
#include <optional>
#include <set>
#include <sockops/install_settings.hpp>
#include <sockops/pins.hpp>
#include <vector>

namespace shunt {

class SynPrograms {
 public:
  enum User { kSteering, kStrictServices, kUsers };

  SynPrograms(const Paths& paths, MapFinder map) : paths_(paths), map_(std::move(map)) {}

  // By this daemon; what an earlier one attached is attached anew, with the program in force. To this very namespace:
  // an inode is given out again.
  bool attached(uint32_t netns) const;
  // `netns`: the inode of one of these namespaces. Loading takes tens of milliseconds.
  Result<void> attach(uint32_t netns, const std::vector<UniqueFd>& namespaces);
  // This user needs it in these namespaces and in no others. Where nobody does it is detached; what an earlier daemon
  // left only once every user has said what he needs.
  void keep(User user, std::set<uint64_t> wanted);
  void detach_all();

 private:
  const Paths& paths_;
  MapFinder map_;
  std::set<uint64_t> attached_;
  std::array<std::optional<std::set<uint64_t>>, kUsers> wanted_;
};

const UniqueFd* find_namespace(const std::vector<UniqueFd>& namespaces, uint32_t inode);

}  // namespace shunt
