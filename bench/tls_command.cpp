#include <fmt/format.h>

#include <algorithm>
#include <bench/tls.hpp>
#include <bench/tls_command.hpp>

namespace shunt::bench {
namespace {

bool named(const TlsOptions& options, const std::string& variant) {
  return std::find(options.variants.begin(), options.variants.end(), variant) != options.variants.end();
}

int list_tls(const TlsOptions& options) {
  for (const TlsVariant& variant : kTlsVariants) {
    const std::string absent = variant.absent();
    fmt::print("variant  {:15} {}{}\n", variant.name, variant.text, absent.empty() ? "" : "; ABSENT: " + absent);
  }
  for (const Cell& cell : all_tls_cells(options.cpus)) fmt::print("cell     {}\n", tls_cell_name(cell));
  return kOk;
}

// `absent`: what was wanted and is not there, with the reason.
Result<TlsPlan> make_tls_plan(const TlsOptions& options, Json* absent) {
  TlsPlan plan;
  for (const std::string& name : options.variants) {
    const bool known =
        std::any_of(kTlsVariants.begin(), kTlsVariants.end(), [&](const TlsVariant& v) { return v.name == name; });
    if (!known) return unexpected(Error{EINVAL, "no variant is called " + name, "see --list"});
  }
  for (const TlsVariant& variant : kTlsVariants) {
    const bool base = &variant == &kTlsVariants.front();
    if (!options.variants.empty() && !named(options, variant.name) && !base) continue;
    if (std::string why = variant.absent(); !why.empty()) {
      (*absent)[variant.name] = why;
    } else {
      plan.variants.push_back(&variant);
    }
  }
  for (const Cell& cell : all_tls_cells(options.cpus)) {
    if (matches(tls_cell_name(cell), options.cells)) plan.cells.push_back(cell);
  }
  if (plan.cells.empty()) return unexpected(Error{EINVAL, "no cell is left by --cells", "see --list"});
  plan.rounds = options.rounds ? options.rounds : 9;
  plan.seconds = options.seconds > 0 ? options.seconds : options.quick ? 0.1 : 0.5;
  plan.cpus = options.cpus;
  if (options.quick) plan.seconds_max = kQuickSecondsMax;
  plan.seed = options.seed ? options.seed : seed_of_now();
  return plan;
}

}  // namespace

CLI::App* add_tls_command(CLI::App* app, TlsOptions* options) {
  CLI::App* tls = app->add_subcommand(
      "tls", "pairs of TLS gateways between two hosts: keys in the kernel, OpenSSL, haproxy, nginx (root)");
  tls->add_option("--cells", options->cells, "only cells whose name contains one of these, e.g. one-way,request/1KiB")
      ->delimiter(',');
  tls->add_option(
         "--variants", options->variants,
         "only these beside gateway-openssl: gateway-ktls, haproxy, nginx, plain; one that is absent is a failure")
      ->delimiter(',');
  tls->add_option("--rounds", options->rounds, "rounds, in each of which every variant runs once (default 9)")
      ->check(CLI::Range(1, 1000));
  tls->add_option("--seconds", options->seconds, "length of one run (default 0.5)")->check(CLI::Range(0.01, 60.0));
  tls->add_option("--cpus", options->cpus, "1: everything on one CPU; 2: on all")->check(CLI::Range(1, 2));
  tls->add_option("--seed", options->seed, "of the order of the variants (default: the time)");
  tls->add_flag("--quick", options->quick, "short runs, all within two minutes");
  add_output_options(tls, &options->output);
  tls->add_flag("--list", options->list, "name the cells and variants, and which are absent here, and end");
  tls->footer(
      "Exit codes: 0 done; 1 a run or an integrity check failed, or a variant that was named is absent; 2 wrong usage; "
      "6 root is needed.");
  return tls;
}

int bench_tls(const TlsOptions& options) {
  if (options.list) return list_tls(options);
  Json absent = Json::object();
  Result<TlsPlan> plan = make_tls_plan(options, &absent);
  if (!plan) return fail(kUsage, plan.error().to_string());
  const char* base = kTlsVariants.front().name;
  if (absent.contains(base))
    return fail(kFailed, absent.at(base).get<std::string>() + ", which all others are compared with");
  Json document;
  {
    ProgressLine progress;
    TlsRunner runner(*plan, [&](const std::string& what, double done) { progress.show(what, done); });
    if (auto opened = runner.open(); !opened) return fail(opened.error());
    document = runner.document(runner.run(), absent);
  }
  bool holds = true;
  for (const auto& [name, why] : absent.items()) {
    if (named(options, name)) holds = fail(kFailed, name + " is absent: " + why.get<std::string>()) == kOk;
  }
  return publish_report(options.output, document, holds);
}

}  // namespace shunt::bench
