// Where and with what was measured: without this a number means nothing.
#pragma once

#include <nlohmann/json.hpp>

namespace shunt::bench {

using Json = nlohmann::ordered_json;

Json describe_environment();

}  // namespace shunt::bench
