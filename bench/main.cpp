// shunt-bench: measures what Shunt brings on this host, and where it brings nothing.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <bench/accept.hpp>
#include <bench/command.hpp>
#include <bench/document.hpp>
#include <bench/memory.hpp>
#include <bench/report.hpp>
#include <bench/tls_command.hpp>
#include <cstdio>

namespace shunt::bench {
namespace {

constexpr double kQuickStackSecondsMax = 55;  // synthetic cells then get what is left
constexpr uint32_t kMemoryConnections = 10000;
constexpr uint32_t kHeldConnections = 100000;

struct Options {
  std::vector<std::string> cells;
  std::vector<std::string> variants;
  std::vector<std::string> compare;
  OutputOptions output;
  int rounds = 0;
  double seconds = 0;
  double stack_seconds = 0;
  int stack_cpus = 1;
  uint64_t seed = 0;
  bool quick = false;
  bool stacks = false;
  bool only_stacks = false;
  bool memory = false;
  bool accept = false;
  bool list = false;
};

void add_options(CLI::App* app, Options* options) {
  app->add_option("--cells", options->cells,
                  "only cells whose name contains one of these, e.g. ping-pong,one-way/64B,nginx")
      ->delimiter(',');
  app->add_option("--variants", options->variants,
                  "only these: plain, shortcut, first, pass, excluded, half, unix, shm")
      ->delimiter(',');
  app->add_option("--rounds", options->rounds, "rounds, in each of which every variant runs once (default 9)")
      ->check(CLI::Range(1, 1000));
  app->add_option("--seconds", options->seconds, "length of one run (default 0.3)")->check(CLI::Range(0.01, 60.0));
  app->add_option("--stack-seconds", options->stack_seconds, "length of one run of a stack (default 2)")
      ->check(CLI::Range(1.0, 60.0));
  app->add_option("--stack-cpus", options->stack_cpus, "1: each stack on one CPU; 2: on all")->check(CLI::Range(1, 2));
  app->add_option("--seed", options->seed, "of the order of the variants (default: the time)");
  app->add_flag("--quick", options->quick, "short runs, all within two minutes");
  app->add_flag("--stacks", options->stacks, "also real software: nginx, sidecar chains, redis, PostgreSQL (root)");
  app->add_flag("--only-stacks", options->only_stacks, "real software alone");
  app->add_flag("--memory", options->memory, "also kernel memory of 10,000 and 100,000 held connections (root)");
  app->add_flag("--accept", options->accept, "measure and judge the speed bars; exit code 1 if one falls short");
  add_output_options(app, &options->output);
  app->add_option("--compare", options->compare, "compare two JSON reports instead of measuring")->expected(2);
  app->add_flag("--list", options->list, "name the cells and variants, and end");
  app->set_version_flag("--version", SHUNT_VERSION);
  app->footer(
      "Exit codes: 0 done; 1 a run or an integrity check failed, or with --accept a bar was missed; 2 wrong usage; 5 "
      "the kernel "
      "cannot run the shortcut; 6 root is needed.");
}

Result<std::vector<Variant>> chosen_variants(const std::vector<std::string>& names) {
  std::vector<Variant> variants;
  for (const VariantInfo& info : kVariants) {
    if (names.empty() || std::find(names.begin(), names.end(), info.name) != names.end())
      variants.push_back(info.variant);
  }
  for (const std::string& name : names) {
    bool known =
        std::any_of(kVariants.begin(), kVariants.end(), [&](const VariantInfo& info) { return info.name == name; });
    if (!known) return unexpected(Error{EINVAL, "no variant is called " + name, "see --list"});
  }
  return variants;
}

Result<Plan> make_plan(const Options& options) {
  Plan plan;
  Result<std::vector<Variant>> variants = chosen_variants(options.variants);
  if (!variants) return unexpected(variants.error());
  plan.variants = *variants;
  // The limit and the passing variant have no bar.
  if (options.accept && options.variants.empty())
    std::erase_if(plan.variants, [](Variant variant) { return variant == Variant::shm || variant == Variant::pass; });
  for (const Cell& cell : all_cells(int(usable_cpus().size()))) {
    if (!options.only_stacks && matches(cell.name(), options.cells)) plan.cells.push_back(cell);
  }
  for (const StackCell& cell : all_stack_cells()) {
    bool wanted = options.stacks || options.only_stacks || options.accept;
    if (wanted && matches(cell.name, options.cells)) plan.stacks.push_back(cell);
  }
  if (plan.cells.empty() && plan.stacks.empty() && !options.memory) {
    return unexpected(Error{EINVAL, "no cell is left by --cells", "see --list"});
  }
  plan.rounds = options.rounds ? options.rounds : 9;
  plan.seconds = options.seconds > 0 ? options.seconds : options.quick ? 0.06 : 0.3;
  plan.stack_seconds = options.stack_seconds > 0 ? options.stack_seconds : options.quick ? 1 : 2;
  plan.stack_cpus = options.stack_cpus;
  if (options.quick) plan.seconds_max = kQuickSecondsMax;
  plan.seed = options.seed ? options.seed : seed_of_now();
  return plan;
}

bool needs_engine(const Plan& plan) {
  return std::any_of(plan.variants.begin(), plan.variants.end(),
                     [](Variant variant) { return variant_info(variant).needs_engine; });
}

// Each stack's programs, before an hour is spent on the others.
Result<void> check_programs(const Plan& plan) {
  for (const StackKind& kind : kStacks) {
    bool wanted = std::any_of(plan.stacks.begin(), plan.stacks.end(),
                              [&](const StackCell& cell) { return cell.stack == kind.name; });
    for (const char* program : kind.programs) {
      if (!wanted || program_exists(program)) continue;
      return unexpected(Error{ENOENT, fmt::format("{} is not installed, which {} needs", program, kind.name),
                              "install it, or leave the stack out with --cells"});
    }
  }
  return {};
}

void measure_all_memory(const Plan& plan, EngineHost* host, ProgressLine* progress, Json* document) {
  (*document)["memory"] = Json::array();
  for (uint32_t connections : {kMemoryConnections, kHeldConnections}) {
    for (Variant variant : {Variant::plain, Variant::shortcut}) {
      bool wanted = std::find(plan.variants.begin(), plan.variants.end(), variant) != plan.variants.end();
      if (!wanted || interrupted()) continue;
      progress->show(fmt::format("holding {} connections, {}", connections, variant_info(variant).name), 1);
      Result<Json> row = measure_memory(host, variant, connections);
      if (row) {
        (*document)["memory"].push_back(*row);
      } else {
        (*document)["problems"].push_back(row.error().to_string());
      }
    }
  }
}

// What could not be measured is in the document's "problems": the rest is worth having.
Result<Json> measure(const Options& options, const Plan& plan, EngineHost* host) {
  ProgressLine progress;
  auto tell = [&](const std::string& what, double done) { progress.show(what, done); };
  Plan cells = plan, stacks = plan;
  if (options.quick && !plan.stacks.empty()) {
    cells.seconds_max = std::max(5.0, plan.seconds_max - kQuickStackSecondsMax);
    stacks.seconds_max = kQuickStackSecondsMax;
  }
  stacks.cells.clear();
  cells.stacks.clear();
  Runner cell_runner(cells, host, tell);
  auto series = cell_runner.run_cells();
  if (!series) return unexpected(series.error());
  Runner stack_runner(stacks, host, tell);
  auto more = stack_runner.run_stacks();
  if (!more) return unexpected(more.error());
  std::move(more->begin(), more->end(), std::back_inserter(*series));
  Json document = make_document(plan, plan.cells.empty() ? plan.rounds : cell_runner.rounds_done(), *series);
  for (const std::string& problem : stack_runner.problems()) document["problems"].push_back(problem);
  if (options.memory || options.accept) measure_all_memory(plan, host, &progress, &document);
  return document;
}

int compare(const Options& options) {
  Result<Json> before = load_document(options.compare[0]);
  if (!before) return fail(kUsage, before.error().to_string());
  Result<Json> after = load_document(options.compare[1]);
  if (!after) return fail(kUsage, after.error().to_string());
  Json comparison = compare_documents(*before, *after);
  return publish(options.output, comparison, terminal_comparison(comparison),
                 html_comparison(comparison, *before, *after));
}

int list() {
  for (const VariantInfo& info : kVariants) fmt::print("variant  {:10} {}\n", info.name, info.text);
  for (const Cell& cell : all_cells(int(usable_cpus().size()))) fmt::print("cell     {}\n", cell.name());
  for (const StackCell& cell : all_stack_cells()) fmt::print("stack    {}\n", cell.name);
  return kOk;
}

int bench(const Options& options) {
  Result<Plan> plan = make_plan(options);
  if (!plan) return fail(kUsage, plan.error().to_string());
  if (auto there = check_programs(*plan); !there) return fail(there.error());
  const bool root_only = !plan->stacks.empty() || options.memory || options.accept;
  std::unique_ptr<EngineHost> host;
  if (needs_engine(*plan) || root_only) {
    auto opened = EngineHost::open();
    if (!opened) return fail(opened.error());
    host = std::move(*opened);
    if (auto prepared = prepare_engines(*plan, host.get(), options.memory || options.accept); !prepared)
      return fail(prepared.error());
  }
  Result<Json> document = measure(options, *plan, host.get());
  if (!document) return fail(document.error());
  bool hold = !options.accept || judge_bars(&*document);
  return publish_report(options.output, *document, hold);
}

}  // namespace
}  // namespace shunt::bench

int main(int argc, char** argv) {
  using namespace shunt::bench;
  Options options;
  CLI::App app(
      "Measures local connections: plain TCP, with Shunt, Unix sockets and shared memory, in interleaved rounds.",
      "shunt bench");
  add_options(&app, &options);
  TlsOptions tls_options;
  const CLI::App* tls = add_tls_command(&app, &tls_options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  catch_interrupts();
  if (tls->parsed()) return bench_tls(tls_options);
  if (options.list) return list();
  return options.compare.empty() ? bench(options) : compare(options);
}
