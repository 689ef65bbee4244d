// Failures of what hand_off() needs, by the linker's --wrap and OpenSSL's own allocator hooks: nothing of it is in the
// library.
#pragma once

#include <cstddef>

namespace shunt::test {

enum class Fault { none, ulp, tx_keys, rx_keys };

// While it lives, the setsockopt() of one kind fails with `code`. With `pretend`, the others of the handoff succeed
// without reaching the kernel, for hosts without kTLS.
class InjectedFault {
 public:
  InjectedFault(Fault fault, int code, bool pretend = false);
  ~InjectedFault();
  InjectedFault(const InjectedFault&) = delete;
  InjectedFault& operator=(const InjectedFault&) = delete;
};

// Call before OpenSSL is used.
void hook_allocations();
// From the `number`th (1 is the next) allocation of OpenSSL on by this thread, one fails; 0: none. Returns how many
// there were since the last call.
size_t fail_allocation(size_t number);
// Allocations by operator new in this thread so far.
size_t new_count();

}  // namespace shunt::test
