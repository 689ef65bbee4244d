#include <fmt/format.h>
#include <unistd.h>

#include <control/cli.hpp>
#include <control/policy_commands.hpp>
#include <control/policy_import.hpp>
#include <control/run_lock.hpp>
#include <control/values.hpp>
#include <cstdio>
#include <filesystem>
#include <ktls/probe.hpp>
#include <sockops/probe.hpp>
#include <utility>

namespace shunt {
namespace {

// With what the gateway needs, and nobody else. That comes first: it tries to load kTLS.
ProbeReport probe_all(const std::string& cgroup_root) {
  std::vector<ProbeItem> ktls = ktls_probe().items;
  ProbeReport report = probe_kernel(cgroup_root);
  for (ProbeItem& item : ktls) {
    item.name = "ktls-" + item.name;
    if (item.verdict == ProbeVerdict::fatal) item.verdict = ProbeVerdict::missing;
    if (!item.remedy.empty()) item.meaning += " (" + item.remedy + ")";
    report.items.push_back(std::move(item));
  }
  return report;
}

constexpr auto kDrainMax = std::chrono::minutes(10);

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }
void print_json(const Json& document) { print(dump(document, 2) + "\n"); }

// One line that is written over, for work that takes a while; silent where nobody looks.
class Progress {
 public:
  explicit Progress(bool wanted) : shown_(wanted && isatty(STDERR_FILENO) == 1) {}
  ~Progress() {
    if (written_) std::fputs("\r\033[K", stderr);
  }
  void show(const std::string& text) {
    if (!shown_) return;
    written_ = true;
    std::fputs(("\r\033[K" + text).c_str(), stderr);
  }
  void remaining(uint64_t sockets) { show(fmt::format("draining: {} sockets left", human_count(sockets))); }

 private:
  bool shown_;
  bool written_ = false;
};

}  // namespace

Cli::Cli(CliOptions options) : options_(std::move(options)), style_(Style::of_stdout()) {
  ConfigOutcome outcome = load_config(options_.config_file, options_.config_named);
  // What is right in it still says where shuntd is to be found: a bad file must not keep anybody from asking.
  if (!outcome.ok()) std::fprintf(stderr, "shunt: the configuration has errors: 'shunt config validate' shows them\n");
  config_ = std::move(outcome.config);
  if (!options_.socket.empty()) config_.daemon.socket = options_.socket;
}

ExitCode Cli::fail(ExitCode exit, const Error& error) const {
  if (options_.json) {
    print_json(Json{{"error", error.message}, {"remedy", error.remedy}, {"exit", static_cast<int>(exit)}});
  } else {
    std::fprintf(stderr, "shunt: %s\n", error.to_string().c_str());
  }
  return exit;
}

ExitCode Cli::fail(const Error& error) const {
  const bool denied = error.code == EPERM || error.code == EACCES;
  return fail(denied ? ExitCode::permission : ExitCode::error, error);
}

Result<ControlClient> Cli::connect() { return ControlClient::connect(config_.daemon.socket); }

ExitCode Cli::without_daemon(const Error& why) {
  if (!ControlClient::not_running(why)) return fail(why);
  if (geteuid() != 0) {
    return fail(ExitCode::permission, Error{EPERM, "shuntd is not running, and only root may read the pins",
                                            "use sudo, or start it: systemctl start shuntd"});
  }
  if (!options_.json) std::fprintf(stderr, "shunt: shuntd is not running: this is read from the pins\n");
  return ExitCode::ok;
}

ExitCode Cli::ask(const Request& request, const std::function<void(const Json&)>& show,
                  const std::function<bool(const Json&)>& on_line) {
  auto client = connect();
  if (!client)
    return fail(ControlClient::not_running(client.error()) ? ExitCode::not_running : ExitCode::error, client.error());
  const Reply reply = client->request(request, on_line);
  if (reply.exit != ExitCode::ok) return fail(reply.exit, reply.error);
  show(reply.data);
  return ExitCode::ok;
}

ExitCode Cli::status() {
  const auto show = [this](const Json& status) {
    options_.json ? print_json(status) : print(render_status(status, style_));
  };
  auto client = connect();
  if (client) return ask(Request{.command = Command::status}, show);
  const ExitCode allowed = without_daemon(client.error());
  if (allowed != ExitCode::ok) return allowed;
  Snapshot snapshot;
  auto status = pinned_status(config_.paths);
  if (!status && status.error().code != ENOENT) return fail(status.error());
  if (!status || (status->generations.empty() && !status->attached)) {
    return fail(ExitCode::not_running, Error{ENOENT, "shunt is not running: there is no daemon, and nothing is pinned",
                                             "systemctl start shuntd"});
  }
  auto counters = pinned_counters(config_.paths);
  if (!counters) return fail(counters.error());
  auto rows = pinned_list(config_.paths);
  if (!rows) return fail(rows.error());
  snapshot.status = std::move(*status);
  snapshot.counters = *counters;
  snapshot.rows = std::make_shared<const std::vector<Row>>(std::move(*rows));
  Json document{{"source", "pins"}};
  document.update(status_document(snapshot));
  document.erase("profiles");
  show(document);
  return ExitCode::ok;
}

void Cli::show_rows(std::vector<Json> rows, uint64_t total) const {
  if (!options_.json) return print(render_list(std::move(rows), total, style_));
  print_json(Json{{"total", total}, {"sockets", rows}});
}

ExitCode Cli::list(const Filter& filter, uint32_t limit) {
  auto checked = check_filter(filter, false);
  if (!checked) return fail(ExitCode::usage, checked.error());
  std::vector<Json> rows;
  auto client = connect();
  if (client) {
    const auto collect = [&](const Json& line) {
      rows.push_back(line);
      rows.back().erase("type");
      return true;
    };
    return ask(
        Request{.command = Command::list, .filter = filter, .limit = limit},
        [&](const Json& data) { show_rows(std::move(rows), data.value("total", uint64_t{0})); }, collect);
  }
  const ExitCode allowed = without_daemon(client.error());
  if (allowed != ExitCode::ok) return allowed;
  const auto pinned = pinned_list(config_.paths);
  if (!pinned) return fail(pinned.error());
  uint64_t total = 0;
  for (const Row& row : *pinned) {
    if (!filter.matches(row)) continue;
    total++;
    if (limit == 0 || rows.size() < limit) rows.push_back(row_document(row));
  }
  show_rows(std::move(rows), total);
  return ExitCode::ok;
}

ExitCode Cli::why(const std::string& what) {
  const auto query = parse_why(what);
  if (!query) return fail(ExitCode::usage, query.error());
  const auto show = [this](const Json& why) { options_.json ? print_json(why) : print(render_why(why, style_)); };
  auto client = connect();
  if (client) return ask(Request{.command = Command::why, .why = *query}, show);
  const ExitCode allowed = without_daemon(client.error());
  if (allowed != ExitCode::ok) return allowed;
  const auto rows = pinned_why(config_.paths, *query);
  if (!rows) return fail(rows.error());
  Json documents = Json::array();
  for (const WhyRow& row : *rows) documents.push_back(why_document(row));
  show(Json{{"connections", documents}, {"total", rows->size()}});
  return ExitCode::ok;
}

ExitCode Cli::monitor(const Filter& filter) {
  auto checked = check_filter(filter, true);
  if (!checked) return fail(ExitCode::usage, checked.error());
  const auto show = [this](const Json& line) {
    print(options_.json ? dump(line) + "\n" : render_event(line, style_));
    std::fflush(stdout);
    return std::ferror(stdout) == 0;
  };
  return ask(
      Request{.command = Command::monitor, .filter = filter}, [](const Json&) {}, show);
}

ExitCode Cli::check() {
  const auto show = [this](const Json& probe) {
    options_.json ? print_json(probe) : print(render_check(probe, style_));
  };
  if (geteuid() != 0) {
    auto client = connect();
    if (!client)
      return fail(ExitCode::permission,
                  Error{EPERM, "only root may probe the kernel, and no shuntd runs that has done so", "use sudo"});
    if (!options_.json) std::fprintf(stderr, "shunt: this is what shuntd found at its start\n");
    bool usable = false;
    const ExitCode exit = ask(Request{.command = Command::check}, [&](const Json& probe) {
      usable = probe.value("usable", false);
      show(probe);
    });
    return exit == ExitCode::ok && !usable ? ExitCode::kernel_unusable : exit;
  }
  ProbeReport report;
  {
    Progress progress(true);
    progress.show("probing the kernel: a second or two");
    report = probe_all(config_.paths.cgroup_root);
  }
  show(probe_document(report));
  return report.usable ? ExitCode::ok : ExitCode::kernel_unusable;
}

ExitCode Cli::version() {
  Json document{{"version", SHUNT_VERSION}, {"layout", SH_LAYOUT_VERSION}, {"crossing", SH_CROSSING_VERSION}};
  auto client = connect();
  if (client) {
    const Reply reply = client->request(Request{.command = Command::version});
    if (reply.exit == ExitCode::ok) document["daemon"] = reply.data;
  }
  if (options_.json) {
    print_json(document);
  } else {
    const auto daemon = document.find("daemon");
    print(fmt::format("shunt {} (map layout {})\n", SHUNT_VERSION, SH_LAYOUT_VERSION));
    print(daemon == document.end() ? "shuntd is not running\n"
                                   : fmt::format("shuntd {}\n", daemon->value("version", "?")));
  }
  return ExitCode::ok;
}

ExitCode Cli::on() {
  return ask(Request{.command = Command::on},
             [this](const Json& status) { options_.json ? print_json(status) : print(render_status(status, style_)); });
}

ExitCode Cli::drained(const Json& report, bool removed) const {
  options_.json ? print_json(report) : print(render_drain(report, removed, style_));
  return report.value("sockets_kept", uint64_t{0}) == 0 ? ExitCode::ok : ExitCode::sockets_kept;
}

ExitCode Cli::off(const std::string& timeout) {
  Request request{.command = Command::off};
  if (!timeout.empty()) {
    const auto deadline = parse_duration(timeout, kDrainMax);
    if (!deadline) return fail(ExitCode::usage, deadline.error());
    request.timeout_ms = static_cast<uint32_t>(deadline->count());
  }
  auto client = connect();
  if (!client) {
    const ExitCode allowed = without_daemon(client.error());
    return allowed != ExitCode::ok ? allowed : drain_without_daemon(timeout, true);
  }
  Reply reply;
  {
    Progress progress(!options_.json);
    reply = client->request(request, [&](const Json& line) {
      progress.remaining(line.value("remaining", uint64_t{0}));
      return true;
    });
  }
  return reply.exit == ExitCode::ok ? drained(reply.data, false) : fail(reply.exit, reply.error);
}

ExitCode Cli::drain_without_daemon(const std::string& timeout, bool keep_pins) {
  std::chrono::milliseconds deadline = config_.daemon.drain_deadline;
  if (!timeout.empty()) {
    const auto parsed = parse_duration(timeout, kDrainMax);
    if (!parsed) return fail(ExitCode::usage, parsed.error());
    deadline = *parsed;
  }
  const auto lock = RunLock::acquire(config_.daemon.socket);
  if (!lock) return fail(lock.error());
  auto marked = mark_turned_off(config_.daemon.socket, keep_pins);
  if (!marked) return fail(marked.error());
  const auto drain = [&] {
    Progress progress(!options_.json);
    return drain_pinned(config_.paths, deadline, keep_pins, [&](uint32_t remaining) { progress.remaining(remaining); });
  };
  auto report = drain();
  if (!report && report.error().code == ENOENT) report = DrainReport{};  // there is nothing to take back
  if (!report) return fail(report.error());
  if (!keep_pins) RunLock::remove_files(config_.daemon.socket);
  return drained(drain_document(*report), !keep_pins);
}

ExitCode Cli::cleanup(const std::string& timeout) {
  if (geteuid() != 0) return fail(ExitCode::permission, Error{EPERM, "only root may remove the pins", "use sudo"});
  return drain_without_daemon(timeout, false);
}

ExitCode Cli::reload() {
  return ask(Request{.command = Command::reload}, [this](const Json& data) {
    if (options_.json) return print_json(data);
    print("the new configuration is in force\n");
    for (const Json& note : data.value("notes", Json::array())) print("note: " + note.get<std::string>() + "\n");
  });
}

ExitCode Cli::policy_get() {
  return ask(Request{.command = Command::policy},
             [this](const Json& policy) { options_.json ? print_json(policy) : print(render_policy(policy, style_)); });
}

ExitCode Cli::policy_trace(TraceQuery query, const std::vector<std::string>& headers) {
  if (auto added = add_headers(headers, query.request); !added) return fail(ExitCode::usage, added.error());
  std::string verdict;
  const ExitCode exit = ask(Request{.command = Command::trace, .trace = std::move(query)}, [&](const Json& trace) {
    verdict = trace.value("verdict", "");
    options_.json ? print_json(trace) : print(render_trace(trace, style_));
  });
  if (exit != ExitCode::ok) return exit;
  if (verdict == policy::verdict_name(SH_POLICY_DENY)) return ExitCode::denied;
  return verdict == policy::verdict_name(SH_POLICY_PUNT) ? ExitCode::punted : ExitCode::ok;
}

Reply Cli::ask_daemon(Command command) {
  auto client = connect();
  if (client) return client->request(Request{.command = command});
  return {ControlClient::not_running(client.error()) ? ExitCode::not_running : ExitCode::error, {}, client.error()};
}

// Says what is in force now that the documents are where shuntd looks for them.
ExitCode Cli::imported(const Json& what, const Reply& reloaded) {
  Json document = what;
  Reply policy = reloaded;
  if (reloaded.exit == ExitCode::ok) policy = ask_daemon(Command::policy);
  if (policy.exit != ExitCode::ok && policy.exit != ExitCode::not_running) return fail(policy.exit, policy.error);
  document["policy"] = policy.data;
  const std::string directory = what.value("directory", "");
  if (options_.json) {
    print_json(document);
  } else if (policy.exit == ExitCode::not_running) {
    print("installed in " + directory + "; shuntd is not running: in force when it starts\n");
  } else {
    const bool off = policy.data.value("generation", uint64_t{0}) == 0;
    print("installed in " + directory +
          (off ? "; no policy is in force: shunt is off, or there are no policies\n" : "\n"));
    print(render_policy(policy.data, style_));
  }
  return policy.exit;
}

ExitCode Cli::policy_import(const std::vector<std::string>& files, bool replace) {
  if (geteuid() != 0) return fail(ExitCode::permission, Error{EPERM, "only root may change the policy", "use sudo"});
  std::vector<Problem> unreadable;
  const auto documents = policy::read_files(files, unreadable);
  if (!unreadable.empty()) return policy_problems(unreadable, options_.json);
  auto staged = StagedPolicies::make(config_.policy.directory, documents, replace);
  if (!staged) return fail(staged.error().code == EINVAL ? ExitCode::usage : ExitCode::error, staged.error());
  const policy::Loaded loaded = staged->check();
  if (!loaded.ok()) return policy_problems(loaded.problems, options_.json);
  if (auto exchanged = staged->exchange(); !exchanged) return fail(exchanged.error());
  const Reply reloaded = ask_daemon(Command::reload);
  if (reloaded.exit != ExitCode::ok && reloaded.exit != ExitCode::not_running) {
    auto back = staged->take_back();
    if (!back) std::fprintf(stderr, "shunt: %s\n", back.error().to_string().c_str());
    return fail(reloaded.exit, reloaded.error);
  }
  Json names = Json::array();
  for (const TextSource& document : documents)
    names.push_back(std::filesystem::path(document.name).filename().string());
  return imported(Json{{"directory", config_.policy.directory}, {"installed", names}, {"removed", staged->removed()}},
                  reloaded);
}

ExitCode Cli::validate(const std::string& file) {
  const bool named = !file.empty() || options_.config_named;
  const ConfigOutcome outcome = load_config(file.empty() ? options_.config_file : file, named);
  if (options_.json) {
    Json problems = Json::array();
    for (const ConfigProblem& problem : outcome.problems) {
      problems.push_back({{"file", problem.file},
                          {"line", problem.line},
                          {"column", problem.column},
                          {"message", problem.message},
                          {"remedy", problem.remedy}});
    }
    print_json(Json{{"valid", outcome.ok()}, {"files", outcome.config.files}, {"problems", problems}});
  } else {
    for (const ConfigProblem& problem : outcome.problems) std::fprintf(stderr, "%s\n", problem.to_string().c_str());
    for (const std::string& name : outcome.config.files) {
      if (outcome.ok()) print("valid: " + name + "\n");
    }
    if (outcome.ok() && outcome.config.files.empty())
      print("there is no configuration file: the defaults are in force\n");
  }
  return outcome.ok() ? ExitCode::ok : ExitCode::usage;
}

ExitCode run_bench(const std::vector<std::string>& arguments) {
  namespace fs = std::filesystem;
  std::error_code code;
  const fs::path folder = fs::read_symlink("/proc/self/exe", code).parent_path();
  // Beside this program, as the build tree has it, and where it is installed.
  const fs::path candidates[] = {folder / "shunt-bench", folder / "../bench/shunt-bench",
                                 fs::path(SHUNT_LIBEXECDIR) / "shunt/shunt-bench"};
  for (const fs::path& program : candidates) {
    if (access(program.c_str(), X_OK) != 0) continue;
    std::vector<char*> argv{const_cast<char*>("shunt-bench")};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(program.c_str(), argv.data());
    std::fprintf(stderr, "shunt: cannot run %s: %s\n", program.c_str(), errno_error(errno, "exec").message.c_str());
    return ExitCode::error;
  }
  std::fprintf(stderr, "shunt: the benchmark harness (shunt-bench) is not installed\n");
  return ExitCode::error;
}

}  // namespace shunt
