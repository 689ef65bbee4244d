// The entry point of shunt-proxy.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <fallback-proxy/proxy.hpp>

namespace {

constexpr int kExitUsage = 2;

int check(const std::string& file) {
  const auto runtime = shunt::proxy::load_runtime(file);
  if (runtime) {
    std::printf("valid: %zu listeners; %s", (*runtime)->config.listeners.size(),
                (*runtime)->policies->summary().c_str());
    return 0;
  }
  std::fprintf(stderr, "%s\n", runtime.error().to_string().c_str());
  return kExitUsage;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace shunt;
  CLI::App app("shunt-proxy: judges and forwards requests of HTTP/1 in userspace. See shunt-proxy(8).");
  std::string file = proxy::kDefaultConfigFile;
  bool only_check = false;
  app.add_option("-c,--config", file, "configuration file")->capture_default_str();
  app.add_flag("--check", only_check, "check the configuration and its policies, and end");
  app.set_version_flag("--version", "shunt-proxy " SHUNT_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  if (only_check) return check(file);
  signal(SIGPIPE, SIG_IGN);
  const auto ran = proxy::run_proxy(file);
  if (ran) return 0;
  log_failure("cannot run", ran.error(), "nothing is forwarded");
  return ran.error().code == EINVAL ? kExitUsage : 1;
}
