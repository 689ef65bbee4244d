// Steering (bpf/abi/steer.h): which servers of this host are reached through the fallback proxy by clients whose
// requests nobody else can judge, a listening socket of the proxy for each, and where the program is needed that
// chooses between the two.
#pragma once

#include <bpf/abi/steer.h>

#include <base/result.hpp>
#include <map>
#include <set>
#include <sockops/engine.hpp>
#include <sockops/install_settings.hpp>
#include <sockops/look_times.hpp>
#include <sockops/own_addresses.hpp>
#include <sockops/pins.hpp>
#include <sockops/syn_programs.hpp>
#include <vector>

namespace shunt {

class Steering {
 public:
  // `generation` is that of the loaded programs, whose maps `map` finds.
  Steering(const Paths& paths, const Generation& generation, MapFinder map, OwnAddresses& addresses,
           SynPrograms& programs)
      : paths_(paths), generation_(generation), map_(std::move(map)), addresses_(addresses), programs_(programs) {}

  // As Engine::admit_proxy(), Engine::end_steering() and Engine::steered_servers().
  Result<UniqueFd> admit(uint32_t proxy, bool keeps);
  void end();
  // `told`: an event said that a server has come.
  SteeredServers look(bool now, bool told);

 private:
  struct Less {
    bool operator()(const sh_steer_key& a, const sh_steer_key& b) const;
  };
  struct Server {
    sh_steer row = {};
    uint32_t identity = 0;
    bool handed_out = false;
  };
  using Servers = std::map<sh_steer_key, Server, Less>;

  bool is_wanted() const;
  Result<void> scan(SteeredServers& out);
  Result<void> scan_servers(const std::vector<sh_owner>& owners, Servers& found) const;
  bool is_seen(const PolicyEnd& end) const;
  void adopt();
  void forget(const sh_steer_key& key, uint32_t slot);
  void put(Servers found, const std::vector<UniqueFd>& namespaces, SteeredServers& out);
  Result<UniqueFd> put_one(const sh_steer_key& key, Server& server, const std::vector<UniqueFd>& namespaces);
  Result<uint32_t> free_slot() const;

  const Paths& paths_;
  const Generation& generation_;
  MapFinder map_;
  OwnAddresses& addresses_;
  SynPrograms& programs_;
  uint32_t proxy_ = 0;  // 0: none
  Servers servers_;
  LookTimes times_;
};

}  // namespace shunt
