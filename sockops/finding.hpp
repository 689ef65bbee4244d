// What the self-test says of one behaviour of the kernel.
#pragma once

#include <sockops/probe.hpp>
#include <string>
#include <utility>

namespace shunt {

struct Finding {
  ProbeVerdict verdict = ProbeVerdict::ok;
  std::string found;
  std::string meaning;
  std::string remedy;
};

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
