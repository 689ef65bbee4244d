// The commands of `shunt`. Each returns the exit code of exit_codes.hpp.
#pragma once

#include <control/client.hpp>
#include <control/config.hpp>
#include <control/render.hpp>
#include <ktls/identity/development_ca.hpp>
#include <string>
#include <vector>

namespace shunt {

struct CliOptions {
  std::string config_file = kDefaultConfigFile;
  bool config_named = false;
  std::string socket;  // empty: as the configuration says
  bool json = false;
};

struct CaArguments {
  std::string folder = kDefaultCaFolder;
  std::string trust_domain;
  unsigned ca_days = kCaDaysDefault;
  std::string spiffe_id;
  std::string out = ".";
  unsigned days = kCertificateDaysDefault;
  unsigned list_days = kListDaysDefault;
  std::vector<std::string> revoked;  // files
};

class Cli {
 public:
  explicit Cli(CliOptions options);

  ExitCode status();
  ExitCode list(const Filter& filter, uint32_t limit);
  ExitCode why(const std::string& what);
  ExitCode monitor(const Filter& filter);
  ExitCode check();
  ExitCode version();
  ExitCode on();
  ExitCode off(const std::string& timeout);
  ExitCode reload();
  ExitCode cleanup(const std::string& timeout);
  ExitCode validate(const std::string& file);
  ExitCode policy_get();
  ExitCode policy_trace(TraceQuery query, const std::vector<std::string>& headers);
  ExitCode policy_import(const std::vector<std::string>& files, bool replace);
  ExitCode ca_init(const CaArguments& arguments) const;
  ExitCode ca_issue(const CaArguments& arguments) const;
  ExitCode ca_revoke(const CaArguments& arguments) const;

 private:
  // What to do with a request: a daemon answers, or nobody does and the pins are read.
  ExitCode ask(const Request& request, const std::function<void(const Json&)>& show,
               const std::function<bool(const Json&)>& on_line = {});
  Result<ControlClient> connect();
  Reply ask_daemon(Command command);
  ExitCode refuse_certificate(const Error& error) const;
  ExitCode show_issued(const Result<Issued>& issued) const;
  ExitCode imported(const Json& what, const Reply& reloaded);
  ExitCode fail(ExitCode exit, const Error& error) const;
  ExitCode fail(const Error& error) const;
  ExitCode without_daemon(const Error& why);  // says that the pins are read; ok, or why they cannot be
  void show_rows(std::vector<Json> rows, uint64_t total) const;
  ExitCode drained(const Json& report, bool removed) const;
  ExitCode drain_without_daemon(const std::string& timeout, bool keep_pins);

  CliOptions options_;
  Config config_;
  Style style_;
};

// Replaces this process by the harness.
ExitCode run_bench(const std::vector<std::string>& arguments);

}  // namespace shunt
