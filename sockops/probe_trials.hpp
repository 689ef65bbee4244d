// The single trials of the self-test. A trial provokes one behaviour in the laboratory and says what it found.
#pragma once

#include <sockops/probe.hpp>
#include <string>
#include <vector>

#include "probe_lab.hpp"

namespace shunt {

struct Finding {
  ProbeVerdict verdict = ProbeVerdict::ok;
  std::string found;
  std::string meaning;
  std::string remedy;
};

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

inline Finding works(std::string found, std::string meaning = {}) {
  return {ProbeVerdict::ok, std::move(found), std::move(meaning), {}};
}
inline Finding quirk(std::string found, std::string meaning) {
  return {ProbeVerdict::quirk, std::move(found), std::move(meaning), {}};
}
inline Finding missing(std::string found, std::string meaning) {
  return {ProbeVerdict::missing, std::move(found), std::move(meaning), {}};
}
inline Finding fatal(std::string found, std::string remedy) {
  return {ProbeVerdict::fatal, std::move(found), "the shortcut cannot run", std::move(remedy)};
}

}  // namespace shunt
