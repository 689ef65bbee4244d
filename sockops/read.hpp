// Reading for those who know the network namespaces already; what else is read from the pins is in engine.hpp.
#pragma once

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <sockops/engine.hpp>
#include <vector>

namespace shunt {

// The enrolled sockets of all generations in these namespaces. `paths` are resolved.
Result<std::vector<Row>> list_in(const Paths& paths, const std::vector<UniqueFd>& namespaces);

}  // namespace shunt
