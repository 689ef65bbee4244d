#include <unistd.h>

#include <algorithm>
#include <bench/command.hpp>
#include <bench/document.hpp>
#include <bench/report.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace shunt::bench {

void add_output_options(CLI::App* app, OutputOptions* options) {
  app->add_option("-o,--output", options->format, "table or json")->check(CLI::IsMember({"table", "json"}));
  app->add_option("--out", options->out, "write the JSON report to a file");
  app->add_option("--html", options->html, "write one self-contained page with plots");
}

int fail(ExitCode code, const std::string& text) {
  fprintf(stderr, "shunt-bench: %s\n", text.c_str());
  return code;
}

int fail(const Error& error) {
  return fail(error.code == EPERM ? kPermission : error.code == ENOTSUP ? kKernelUnusable : kFailed, error.to_string());
}

bool matches(const std::string& name, const std::vector<std::string>& filters) {
  return filters.empty() || std::any_of(filters.begin(), filters.end(), [&](const std::string& filter) {
           return name.find(filter) != std::string::npos;
         });
}

uint64_t seed_of_now() { return uint64_t(std::chrono::system_clock::now().time_since_epoch().count()); }

int publish(const OutputOptions& options, const Json& document, const std::string& text, const std::string& html) {
  if (!options.out.empty()) {
    if (auto written = write_file(options.out, document.dump(1) + "\n"); !written) return fail(written.error());
  }
  if (!options.html.empty()) {
    if (auto written = write_file(options.html, html); !written) return fail(written.error());
  }
  fputs(options.format == "json" ? (document.dump(1) + "\n").c_str() : text.c_str(), stdout);
  return kOk;
}

int publish_report(const OutputOptions& options, const Json& document, bool holds) {
  if (int code = publish(options, document, terminal_report(document), html_report(document)); code != kOk) return code;
  std::vector<std::string> failed = failures(document);
  for (const Json& problem : document.at("problems")) failed.push_back(problem);
  for (const std::string& failure : failed) fprintf(stderr, "shunt-bench: failed: %s\n", failure.c_str());
  return failed.empty() && holds && !interrupted() ? kOk : kFailed;
}

ProgressLine::ProgressLine() {
  const char* kind = getenv("TERM");
  terminal_ = isatty(STDERR_FILENO) && (!kind || strcmp(kind, "dumb") != 0);
}

void ProgressLine::show(const std::string& what, double done) {
  if (!terminal_) return;
  fprintf(stderr, "\r\033[K%3.0f %%  %s", done * 100, what.substr(0, 100).c_str());
  fflush(stderr);
}

ProgressLine::~ProgressLine() {
  if (terminal_) fprintf(stderr, "\r\033[K");
}

}  // namespace shunt::bench
