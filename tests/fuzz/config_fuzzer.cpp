// The configuration from any bytes: no crash, no hang, and what is accepted keeps its limits.
#include <control/config.hpp>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  // A cut makes two files, of which the second is read over the first.
  const size_t cut = text.find("\n====\n");
  std::vector<shunt::ConfigSource> sources{{"shunt.yaml", text.substr(0, cut)}};
  if (cut != std::string::npos) sources.push_back({"conf.d/a.yaml", text.substr(cut + 6)});
  const shunt::ConfigOutcome outcome = shunt::parse_config(sources);
  for (const shunt::ConfigProblem& problem : outcome.problems) {
    // A problem without words, or with a line break in it, would break the log and the CLI.
    if (problem.message.empty() || problem.to_string().find('\n') != std::string::npos) abort();
  }
  if (!outcome.ok()) return 0;
  const shunt::Settings& settings = outcome.config.settings;
  if (settings.profile_sample == 0 || (settings.profile_sample & (settings.profile_sample - 1)) != 0) abort();
  for (const shunt::PortRange& range : settings.selection.ports.include) {
    if (range.first == 0 || range.first > range.last) abort();
  }
  for (const shunt::ProgramEntry& entry : settings.receivers) {
    if (entry.name.empty() || entry.name.size() >= SH_PROGRAM_NAME_BYTES) abort();
  }
  return 0;
}
