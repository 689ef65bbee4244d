// Settings into the maps of one generation.
#pragma once

#include <base/result.hpp>
#include <functional>
#include <sockops/engine.hpp>
#include <string>

namespace shunt {

// A descriptor of the map with this name, owned by the caller of install_settings; -1 if there is none.
using MapFinder = std::function<int(const std::string& name)>;

// The cgroup's id, which is the inode number of its folder. `path` is below the cgroup v2 mount.
Result<uint64_t> cgroup_id(const Paths& paths, const std::string& path);

// Checks all, then writes: on an error nothing has changed. Keeps the mode that is in force. `before`: the settings
// that this process wrote into these maps last, if it did.
Result<void> install_settings(const Paths& paths, const ProbeReport& probe, const Settings& settings,
                              const Settings* before, const MapFinder& map);

Result<sh_config> read_config(int config_map);
Result<void> write_mode(int config_map, sh_mode mode);
Result<void> write_events_wanted(int config_map, bool wanted);
Result<void> write_strict_services(int config_map, bool any);

}  // namespace shunt
