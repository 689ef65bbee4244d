// Values of the configuration and the command line that only this side knows; the others are in base/values.hpp.
#pragma once

#include <base/values.hpp>
#include <sockops/settings.hpp>
#include <string_view>

namespace shunt {

Result<PortRange> parse_port_range(std::string_view text);  // "80", "8000-8100"

}  // namespace shunt
