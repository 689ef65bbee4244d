// The proxy handles what strangers send: it keeps no privileges while it does.
#pragma once

#include <base/result.hpp>
#include <string>

namespace shunt::proxy {

// Before any other thread is started. As root: becomes `user`, with its groups. Then gives up all capabilities, also
// those that the program could get back by executing something, and looks whether they are gone.
Result<void> drop_privileges(const std::string& user);

}  // namespace shunt::proxy
