// Services of this host that other hosts reach through the gateway alone (bpf/admission.bpf.h): where they are, and the
// program at the SYN there.
#pragma once

#include <base/result.hpp>
#include <map>
#include <set>
#include <sockops/engine.hpp>
#include <sockops/install_settings.hpp>
#include <sockops/look_times.hpp>
#include <sockops/own_addresses.hpp>
#include <sockops/syn_programs.hpp>
#include <vector>

namespace shunt {

class StrictServices {
 public:
  StrictServices(const Paths& paths, MapFinder map, OwnAddresses& addresses, SynPrograms& programs);

  // As Engine::set_local_services(), but for the programs, which the next look() attaches.
  Result<void> set(std::vector<HostService> services);
  // The gateway's network namespace, by inode, in which a server's address on the loopback is meant. Until it is known:
  // that of this process.
  void gateway_is_in(uint32_t netns);
  // As Engine::keep_strict(). `now`: something has changed; `told`: an event said that a server has come.
  StrictReport look(bool now, bool told);

 private:
  struct Less {
    bool operator()(const sh_admission_key& a, const sh_admission_key& b) const;
  };
  using Rows = std::map<sh_admission_key, uint32_t, Less>;

  bool any_strict() const;
  // Into the rows; the namespaces of strict services.
  std::set<uint64_t> place(Rows& rows, StrictReport& report) const;
  Result<void> write(const Rows& rows);
  Result<void> scan(StrictReport& report);

  const Paths& paths_;
  MapFinder map_;
  OwnAddresses& addresses_;
  SynPrograms& programs_;
  std::vector<HostService> services_;
  uint32_t gateway_netns_;
  StrictReport last_;
  LookTimes times_;
  bool looked_ = false;
};

}  // namespace shunt
