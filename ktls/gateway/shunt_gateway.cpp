// The entry point of shunt-gateway.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <ktls/gateway/gateway.hpp>

namespace {

using namespace shunt;

constexpr int kExitUsage = 2;

int print(const Result<std::string>& text) {
  if (text) {
    std::printf("%s%s", text->c_str(), text->ends_with('\n') ? "" : "\n");
    return 0;
  }
  std::fprintf(stderr, "%s\n", text.error().to_string().c_str());
  return text.error().code == EINVAL ? kExitUsage : 1;
}

int show_status(const std::string& file) {
  const gateway::ConfigOutcome outcome = gateway::load_config(file);
  return print(gateway::read_status(outcome.config.status));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("shunt-gateway: mutual TLS between hosts, by the kernel. See shunt-gateway(8).");
  std::string file = gateway::kDefaultConfigFile;
  bool only_check = false, only_status = false;
  app.add_option("-c,--config", file, "configuration file")->capture_default_str();
  app.add_flag("--check", only_check, "check the configuration and the files that it names, and end");
  app.add_flag("--status", only_status, "what the running gateway does, as JSON, and end")->excludes("--check");
  app.set_version_flag("--version", "shunt-gateway " SHUNT_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  signal(SIGPIPE, SIG_IGN);
  if (only_check) return print(gateway::check_config(file));
  if (only_status) return show_status(file);
  const auto ran = gateway::run_gateway(file);
  if (ran) return 0;
  log_failure("cannot run", ran.error(), "nothing is forwarded");
  return ran.error().code == EINVAL ? kExitUsage : 1;
}
