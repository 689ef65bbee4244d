// The daemon's entry point.
#include <CLI/CLI.hpp>
#include <base/log.hpp>
#include <control/daemon.hpp>
#include <csignal>

int main(int argc, char** argv) {
  using namespace shunt;
  CLI::App app("shuntd: keeps a host's local connections on the shortcut. See shuntd(8).");
  DaemonOptions options;
  const auto* config = app.add_option("-c,--config", options.config_file, "configuration file")->capture_default_str();
  app.add_flag("--load", options.load_only, "put the programs and the policy in force, and end: at boot");
  app.set_version_flag("--version", "shuntd " SHUNT_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  options.config_required = config->count() > 0;
  signal(SIGPIPE, SIG_IGN);
  Daemon daemon(options);
  if (const auto failure = daemon.start()) {
    log_failure("cannot start", failure->error, "no connection is touched");
    return static_cast<int>(failure->exit);
  }
  if (options.load_only) return static_cast<int>(ExitCode::ok);
  const auto ran = daemon.run();
  if (ran) return static_cast<int>(ExitCode::ok);
  log_failure("the event loop failed", ran.error(), "the kernel side goes on");
  return static_cast<int>(ExitCode::error);
}
