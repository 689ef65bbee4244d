// What a self-test of the kernel says about one behaviour.
#pragma once

#include <string>

namespace shunt {

enum class ProbeVerdict {
  ok,       // works as it is liked
  quirk,    // works differently; `meaning` says what is done about it
  missing,  // not there, and not needed
  fatal,    // cannot do without; `remedy` says what to do
};

struct ProbeItem {
  std::string name;  // stable, kebab-case: "fionread-redirected"
  ProbeVerdict verdict = ProbeVerdict::ok;
  std::string found;    // what was seen, in a few words
  std::string meaning;  // what follows from it
  std::string remedy;   // for fatal
  double seconds = 0;
};

}  // namespace shunt
