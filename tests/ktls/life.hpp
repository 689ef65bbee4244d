// The whole life of a connection, in which one step fails, and what must hold whatever does: only TLS records are on
// the wire, without the marker; neither end gets anything but the beginning of what the other one sent, and takes it
// for whole only if it is; no descriptor stays behind.
#pragma once

#include <set>
#include <string>

#include "ktls/faults.hpp"
#include "ktls/sessions.hpp"

namespace shunt::test {

// How the peer, which is OpenSSL, ends it.
enum class Ending {
  close_notify,
  truncation,   // TCP's end alone
  changed_bit,  // on the way to us
  alert,        // because of one on the way to it
  key_update,
};

enum class Keys {
  in_kernel,
  in_openssl,  // the kernel has no TLS for it
  pretended,   // hand_off() believes that the kernel took them; nothing is sent
};

struct LifePlan {
  Role role = Role::client;  // of our end
  Keys keys = Keys::in_kernel;
  Ending ending = Ending::close_notify;
  KtlsSettings settings;
  // Where steps begin to count.
  enum class From { preparation, handoff, ending } from = From::preparation;
};

struct Outcome {
  std::string complaint;  // of what must hold
  bool whole = false;     // all came, both ways, to both clean ends
  std::string ending;     // of our receiving: "end", or the error
};

Outcome live(const LifePlan& plan, FailingStep& fault);

// A life for each step and each way of its failing, until one is through without. Adds what failed to `ways`; tells
// Google Test what does not hold. `ending`: Outcome::ending where nothing, or nothing that harms, has failed.
void fail_each_step(const LifePlan& plan, const std::string& ending, std::set<std::string>& ways);

}  // namespace shunt::test
