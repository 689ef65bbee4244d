// Processes that connect when they are told to, and programs that must be inspected before they are receivers.
#pragma once

#include <memory>

#include "support/accelerated.hpp"

namespace shunt::test {

// A process of the test's program that connects to a listener of ours.
class Connector {
 public:
  // With `pid` it gets that pid; not running() if somebody else has it.
  explicit Connector(int listener, pid_t pid = 0);

  bool running() const { return child_.running(); }
  pid_t pid() const { return child_.pid(); }

  // Our end of a new connection, over which bytes have gone both ways. Close it before the next one.
  UniqueFd connect(int listener) const;

 private:
  UniqueFd go_;
  Child child_;
};

// The test's program is the only receiver, once each of its processes has been inspected.
Settings settings_with_verification();
void verify_all(Accelerated& shortcut);             // as the daemon does
UniqueFd verified_listener(Accelerated& shortcut);  // this process is inspected

}  // namespace shunt::test
