// Punt channels: loopback connections whose one end is in the sockhash, for a fallback proxy to receive requests on.
#pragma once

#include <base/result.hpp>
#include <sockops/engine.hpp>
#include <sockops/install_settings.hpp>

namespace shunt {

// As Engine::make_channels() and Engine::end_channels().
Result<PuntChannels> make_punt_channels(const MapFinder& map, uint32_t count);
Result<void> end_punt_channels(const MapFinder& map);

bool any_punt_channel(const MapFinder& map);  // is one in force?

bool same_map(int a, int b);

}  // namespace shunt
