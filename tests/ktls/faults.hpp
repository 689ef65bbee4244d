// Failures of what a session needs: of system calls, by definitions of the test program that are found before libc's,
// and of allocations, by OpenSSL's hooks and operator new. Nothing of it is in the library.
#pragma once

#include <cstddef>
#include <set>
#include <span>
#include <string>

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

struct Way;

// A step is what the library and OpenSSL call in a Walk of this thread: a system call on `fd`, an allocation. While it
// lives, the `number`th one (from 1) of the calls of that name fails, in its `way`th way (from 0): an allocation has
// one, a system call several. One at a time.
class FailingStep {
 public:
  FailingStep(std::string call, size_t number, size_t way);
  ~FailingStep();
  FailingStep(const FailingStep&) = delete;
  FailingStep& operator=(const FailingStep&) = delete;

  void watch(int fd) { fd_ = fd; }
  // For the implementation of the calls: the way in which this one fails, or null.
  const Way* step(std::span<const Way> ways, int fd);

  bool injected() const { return injected_ != nullptr; }  // false: there was no such step
  bool is_last_way() const { return way_ + 1 >= ways_; }
  std::string name() const;  // of what was injected: "sendmsg EAGAIN"
  // Who calls again loses nothing by it.
  bool harmless() const;

 private:
  std::string call_;
  size_t number_, way_;
  int fd_ = -1;
  size_t steps_ = 0, ways_ = 0;
  const Way* injected_ = nullptr;
};

// Names of calls: "sendmsg", "malloc" (OpenSSL's), "new".
const std::set<std::string>& steps_of_a_walk();
// The names of all ways in which these can be made to fail.
std::set<std::string> ways_of(const std::set<std::string>& calls);

// What is called while one lives are steps.
class Walk {
 public:
  Walk();
  ~Walk();
  Walk(const Walk&) = delete;
  Walk& operator=(const Walk&) = delete;
};

// Whether operator new is one of the steps: the thread sanitizer's own cannot be replaced.
extern const bool kNewsAreSteps;

}  // namespace shunt::test
