// What the commands of shunt-bench have in common: exit codes, where the report goes, the line that tells of progress.
#pragma once

#include <CLI/CLI.hpp>
#include <bench/environment.hpp>
#include <bench/schedule.hpp>
#include <string>
#include <vector>

namespace shunt::bench {

// The numbers are those of the shunt command, which runs this program.
enum ExitCode { kOk = 0, kFailed = 1, kUsage = 2, kKernelUnusable = 5, kPermission = 6 };

constexpr double kQuickSecondsMax = 85;  // leaves room for the last round and the teardown within two minutes

struct OutputOptions {
  std::string format = "table";
  std::string out;
  std::string html;
};
void add_output_options(CLI::App* app, OutputOptions* options);
int publish(const OutputOptions& options, const Json& document, const std::string& text, const std::string& html);
// The report, and what failed on standard error. `holds`: nothing else has failed.
int publish_report(const OutputOptions& options, const Json& document, bool holds);

int fail(ExitCode code, const std::string& text);
int fail(const Error& error);

bool matches(const std::string& name, const std::vector<std::string>& filters);
uint64_t seed_of_now();

// One line that is overwritten; nothing where standard error is no terminal that can.
class ProgressLine {
 public:
  ProgressLine();
  void show(const std::string& what, double done);
  ~ProgressLine();

 private:
  bool terminal_;
};

}  // namespace shunt::bench
