// Faults of the kernel that cannot be tried without harm: they are told by its version.
#pragma once

#include <string_view>

#include "finding.hpp"

namespace shunt {

// `release` and `version` as uname(2) gives them. Debian names the stable release it builds in `version`; where nobody
// names it the first three numbers of `release` count, so a distributor's kernel may be mended and look older.
Finding check_kernel_faults(std::string_view release, std::string_view version);

}  // namespace shunt
