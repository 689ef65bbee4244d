// The command line: reads the arguments and calls the command.
#include <CLI/CLI.hpp>
#include <control/cli.hpp>
#include <control/exit_codes.hpp>
#include <control/policy_commands.hpp>
#include <csignal>
#include <functional>

namespace {

using namespace shunt;

std::string exit_codes_text() {
  std::string text = "Exit codes:\n";
#define SHUNT_EXIT_LINE(number, name, meaning) text += "  " #number "  " meaning "\n";
  SHUNT_EXIT_CODES(SHUNT_EXIT_LINE)
#undef SHUNT_EXIT_LINE
  return text;
}

struct Arguments {
  CliOptions options;
  std::string output = "table";
  Filter filter;
  uint32_t limit = 0;
  std::string what;
  std::string timeout;
  std::string file;
  std::vector<std::string> files;
  bool replace = false;
  policy::Question question;
  policy::HttpRequest request;
  policy::RedisCommand command;
  std::vector<std::string> headers;
  CaArguments ca;
};

void add_filter(CLI::App* command, Arguments& arguments, const char* kinds, const char* kinds_help) {
  command->add_option("--pid", arguments.filter.pid, "only of this process")->check(CLI::PositiveNumber);
  command->add_option("--port", arguments.filter.port, "only with this port at either end")
      ->check(CLI::Range(1, 65535));
  command->add_option("--program", arguments.filter.program, "only of this program");
  command->add_option(kinds, arguments.filter.kinds, kinds_help)->delimiter(',');
  command->add_option("--reason", arguments.filter.reasons, "only with these reasons")->delimiter(',');
}

using Run = std::function<ExitCode(Cli&)>;

// Who asks whom, and perhaps what for: there is a request, or a command, if its option was given.
struct AskedFor {
  const CLI::Option* method;
  const CLI::Option* command;
};

AskedFor add_question(CLI::App* command, Arguments& arguments, const char* from, const char* to) {
  command->add_option("from", arguments.question.from, from)->required();
  command->add_option("to", arguments.question.to, to)->required();
  auto* method = command->add_option("method", arguments.request.method, "of the request");
  command->add_option("path", arguments.request.path, "of the request, with its query")->needs(method);
  command->add_option("--host", arguments.request.host, "the Host header of the request")->needs(method);
  command->add_option("-H,--header", arguments.headers, "'Name: value', any number of times")
      ->allow_extra_args(false)
      ->needs(method);
  auto* redis = command->add_option("--command", arguments.command.name, "a Redis command")->excludes(method);
  command->add_option("--key", arguments.command.keys, "of the Redis command, any number of times")
      ->allow_extra_args(false)
      ->needs(redis);
  return {method, redis};
}

void take_question(const AskedFor& asked, Arguments& arguments) {
  if (asked.method->count() > 0) arguments.question.request = arguments.request;
  if (asked.command->count() > 0) arguments.question.command = arguments.command;
}

void add_policy(CLI::App& app, Arguments& arguments, std::vector<std::pair<CLI::App*, Run>>& commands) {
  auto* policy = app.add_subcommand("policy", "policy documents, and the policy in force");
  policy->require_subcommand(1);
  policy->fallthrough();
  auto* validate = policy->add_subcommand("validate", "check documents: files, or folders with them");
  validate->add_option("file", arguments.files, "files and folders")->required();
  commands.emplace_back(validate, [&](Cli&) { return policy_validate(arguments.files, arguments.options.json); });
  commands.emplace_back(policy->add_subcommand("get", "the policy in force, and where its workloads are"),
                        [](Cli& cli) { return cli.policy_get(); });
  auto* import = policy->add_subcommand("import", "put documents in force: files, or folders with them");
  import->add_option("file", arguments.files, "files and folders")->required();
  import->add_flag("--replace", arguments.replace, "in place of all that are in force");
  commands.emplace_back(import, [&](Cli& cli) { return cli.policy_import(arguments.files, arguments.replace); });
  auto* explain =
      policy->add_subcommand("explain", "would this be allowed, by which rule, in the kernel or by the proxy?");
  explain->add_option("-f,--file", arguments.files, "files and folders")->required()->allow_extra_args(false);
  const AskedFor explained = add_question(explain, arguments, "a workload, an address, host or world",
                                          "TARGET:PORT, a service, a workload or an address");
  commands.emplace_back(explain, [&arguments, explained](Cli&) {
    take_question(explained, arguments);
    return policy_explain(arguments.files, arguments.question, arguments.headers, arguments.options.json);
  });
  auto* trace = policy->add_subcommand("trace", "the same, asked of the kernel's tables about who is there now");
  const AskedFor traced =
      add_question(trace, arguments, "PID, unit, /CGROUP, ADDR:PORT of a connection, or as for explain",
                   "the same with a port, or ADDR:PORT of the other end");
  commands.emplace_back(trace, [&arguments, traced](Cli& cli) {
    take_question(traced, arguments);
    const policy::Question& question = arguments.question;
    return cli.policy_trace({question.from, question.to, question.request, question.command}, arguments.headers);
  });
}

void add_ca(CLI::App& app, Arguments& arguments, std::vector<std::pair<CLI::App*, Run>>& commands) {
  CaArguments& ca = arguments.ca;
  auto* group = app.add_subcommand("ca", "a CA for development, and certificates of it");
  group->require_subcommand(1);
  group->fallthrough();
  const auto days = CLI::Range(1u, kCaDaysMax);
  auto* init = group->add_subcommand("init", "make the CA of a trust domain");
  init->add_option("trust-domain", ca.trust_domain, "its name, mesh.example for example")->required();
  init->add_option("--days", ca.ca_days, "how long it is valid")->check(days)->capture_default_str();
  commands.emplace_back(init, [&ca](Cli& cli) { return cli.ca_init(ca); });
  auto* issue = group->add_subcommand("issue", "make a certificate and its key");
  issue->add_option("spiffe-id", ca.spiffe_id, "spiffe://TRUST-DOMAIN/PATH")->required();
  issue->add_option("--out", ca.out, "the folder for the files")->capture_default_str();
  issue->add_option("--days", ca.days, "how long it is valid")->check(days)->capture_default_str();
  commands.emplace_back(issue, [&ca](Cli& cli) { return cli.ca_issue(ca); });
  auto* revoke = group->add_subcommand("revoke", "make the list of revoked certificates, or add to it");
  revoke->add_option("certificates", ca.revoked, "files of certificates; without one the list is only renewed");
  revoke->add_option("--days", ca.list_days, "how long the list is valid")->check(days)->capture_default_str();
  commands.emplace_back(revoke, [&ca](Cli& cli) { return cli.ca_revoke(ca); });
  for (CLI::App* command : {init, issue, revoke})
    command->add_option("--ca", ca.folder, "the folder of the CA")->capture_default_str();
}

// The commands, each with what it runs.
std::vector<std::pair<CLI::App*, Run>> add_commands(CLI::App& app, Arguments& arguments) {
  std::vector<std::pair<CLI::App*, Run>> commands;
  const auto add = [&](const char* name, const char* help, Run run) {
    return commands.emplace_back(app.add_subcommand(name, help), std::move(run)).first;
  };
  add("status", "what shunt does on this host, in numbers", [](Cli& cli) { return cli.status(); });
  add("check", "try what the kernel can do", [](Cli& cli) { return cli.check(); });
  auto* list = add("list", "the enrolled sockets, pair by pair",
                   [&](Cli& cli) { return cli.list(arguments.filter, arguments.limit); });
  add_filter(list, arguments, "--state", "only in these states: unpaired, spilled, fast, stopped");
  list->add_option("--limit", arguments.limit, "at most so many");
  auto* why =
      add("why", "why a connection is or is not accelerated", [&](Cli& cli) { return cli.why(arguments.what); });
  why->add_option("what", arguments.what, "PID, ADDR:PORT, [ADDR]:PORT or :PORT")->required();
  auto* monitor =
      add("monitor", "follow what happens, until interrupted", [&](Cli& cli) { return cli.monitor(arguments.filter); });
  add_filter(monitor, arguments, "--event",
             "only these: skipped, enrolled, paired, left, spill, latch, stopped, closed, verify, forbidden, denied, "
             "punted, steered");
  add("on", "accelerate new connections", [](Cli& cli) { return cli.on(); });
  auto* off =
      add("off", "stop, and take the sockets back to TCP", [&](Cli& cli) { return cli.off(arguments.timeout); });
  off->add_option("--timeout", arguments.timeout, "how long to wait for readers: 10s, 1m");
  add("reload", "put a changed configuration in force", [](Cli& cli) { return cli.reload(); });
  auto* cleanup = add("cleanup", "without a daemon: stop, and remove all that is pinned",
                      [&](Cli& cli) { return cli.cleanup(arguments.timeout); });
  cleanup->add_option("--timeout", arguments.timeout, "how long to wait for readers: 10s, 1m");
  add("version", "the versions of shunt and shuntd", [](Cli& cli) { return cli.version(); });
  auto* config = app.add_subcommand("config", "the configuration");
  config->require_subcommand(1);
  config->fallthrough();
  auto* validate = config->add_subcommand("validate", "check the configuration, or FILE with conf.d beside it");
  validate->add_option("file", arguments.file, "instead of the configured file");
  commands.emplace_back(validate, [&](Cli& cli) { return cli.validate(arguments.file); });
  add_policy(app, arguments, commands);
  add_ca(app, arguments, commands);
  for (auto& [command, run] : commands) command->fallthrough();
  return commands;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("shunt: local connections from socket to socket. See shunt(1).");
  Arguments arguments;
  app.require_subcommand(1);
  app.set_version_flag("--version", "shunt " SHUNT_VERSION);
  app.footer(exit_codes_text());
  const auto* config = app.add_option("-c,--config", arguments.options.config_file, "configuration file")
                           ->envname("SHUNT_CONFIG")
                           ->capture_default_str();
  app.add_option("--socket", arguments.options.socket, "control socket, instead of the configured one");
  app.add_option("-o,--output", arguments.output, "how to print")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  auto commands = add_commands(app, arguments);
  auto* bench =
      app.add_subcommand("bench", "measure what the shortcut brings, or TLS gateways; see 'shunt bench --help'");
  bench->prefix_command();
  bench->set_help_flag();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  if (bench->parsed()) return static_cast<int>(run_bench(bench->remaining()));
  signal(SIGPIPE, SIG_IGN);
  arguments.options.config_named = config->count() > 0;
  arguments.options.json = arguments.output == "json";
  Cli cli(arguments.options);
  for (const auto& [command, run] : commands) {
    if (command->parsed()) return static_cast<int>(run(cli));
  }
  return static_cast<int>(ExitCode::usage);
}
