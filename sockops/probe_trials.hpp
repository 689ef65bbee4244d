// The single trials of the self-test. A trial provokes one behaviour in the laboratory and says what it found.
#pragma once

#include <vector>

#include "finding.hpp"
#include "probe_lab.hpp"

namespace shunt {

struct Trial {
  const char* name;
  std::vector<const char*> programs;  // that it needs loaded
  bool needed;                        // the shortcut cannot run without what it tries
  Finding (*run)(Lab& lab);
};

// In the order in which they run: attachments first, then what stands on them.
std::vector<Trial> attachment_trials();
std::vector<Trial> stream_trials();
std::vector<Trial> blocking_trials();
std::vector<Trial> verdict_trials();

}  // namespace shunt
