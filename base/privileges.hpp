// Programs that handle what strangers send keep no privileges while they do.
#pragma once

#include <base/result.hpp>
#include <string>

namespace shunt {

// Before any other thread is started. As root: becomes `user`, with its groups. Then gives up all capabilities, also
// those that the program could get back by executing something, and looks whether they are gone.
Result<void> drop_privileges(const std::string& user);

// As many descriptors as are permitted: each connection has two.
void raise_descriptor_limit();

}  // namespace shunt
