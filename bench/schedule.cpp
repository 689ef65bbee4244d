#include <fmt/format.h>

#include <algorithm>
#include <bench/channel.hpp>
#include <bench/schedule.hpp>

namespace shunt::bench {
namespace {

// Enough connections for a destination to be known, whatever the weight of one is.
constexpr int kWarmUpRuns = 8;
constexpr double kWarmUpSeconds = 0.03;
constexpr const char* kStackEngine = "stacks";
const std::vector<Variant> kStackVariants = {Variant::plain, Variant::shortcut, Variant::bare};

bool has(const std::vector<Variant>& variants, Variant variant) {
  return std::find(variants.begin(), variants.end(), variant) != variants.end();
}

bool stack_has_variant(const StackKind& kind, Variant variant) { return variant != Variant::bare || kind.one_hop; }

// The cgroup of a stack's variant.
const char* place_of(Variant variant) {
  return variant == Variant::shortcut ? kStackEngine : variant_info(variant).name;
}

const char* group_of(CellKind kind) {
  return kind_name(kind == CellKind::set_option_echo ? CellKind::set_option : kind);
}

Series series_of(const Cell& cell, const std::vector<Variant>& variants) {
  Series series = {cell.name(), group_of(cell.kind), cell.unit(), cell.cpus, cell.message_bytes, {}, {}};
  for (Variant variant : variants) {
    if (cell_has_variant(cell, variant)) series.variants.push_back(variant_info(variant).name);
  }
  return series;
}

Settings settings_of(Variant variant) {
  Settings settings = synthetic_settings();
  switch (variant) {
    case Variant::first:
    case Variant::half:
      settings.profile = false;
      break;
    case Variant::pass:
      settings.profile = false;
      settings.spill_bytes = 0;
      break;
    case Variant::excluded:
      settings.selection.cidrs.exclude = {Cidr{.prefix_bits = 0}};
      break;
    default:
      break;
  }
  return settings;
}

}  // namespace

Result<void> prepare_engines(const Plan& plan, EngineHost* host, bool also_memory) {
  if (auto added = host->add_cgroup("plain"); !added) return added;
  for (Variant variant : plan.variants) {
    bool wanted = !plan.cells.empty() || (also_memory && variant == Variant::shortcut) ||
                  (variant == Variant::bare && !plan.stacks.empty());
    if (!variant_info(variant).needs_engine || !wanted) continue;
    const char* name = variant_info(variant).name;
    auto added = variant == Variant::bare ? host->add_bare(name) : host->add_engine(name, settings_of(variant));
    if (!added) return added;
  }
  if (plan.stacks.empty() || !has(plan.variants, Variant::shortcut)) return {};
  Settings shipped;
  shipped.selection = default_selection();
  shipped.receivers = shipped_receivers();
  return host->add_engine(kStackEngine, shipped);
}

Runner::Runner(const Plan& plan, EngineHost* host, Progress progress)
    : plan_(plan), host_(host), progress_(std::move(progress)), random_(plan.seed) {
  size_t stack_runs = 0;
  for (Variant variant : kStackVariants) {
    if (!has(plan.variants, variant)) continue;
    for (const StackCell& cell : plan.stacks) stack_runs += stack_has_variant(stack_kind(cell.stack), variant);
  }
  steps_ = (plan.cells.size() * plan.variants.size() + stack_runs) * size_t(plan.rounds);
}

void Runner::tell(const std::string& what) {
  double done = steps_ ? double(steps_done_) / double(steps_) : 0;
  if (plan_.seconds_max > 0) {
    std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started_;
    done = std::max(done, passed.count() / plan_.seconds_max);
  }
  if (progress_) progress_(what, std::min(done, 1.0));
}

bool Runner::out_of_time() const {
  std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started_;
  return interrupted() || (plan_.seconds_max > 0 && passed.count() >= plan_.seconds_max * time_share_);
}

std::vector<Variant> Runner::shuffled(std::vector<Variant> variants) {
  std::shuffle(variants.begin(), variants.end(), random_);
  return variants;
}

// Always the same one, because what is learned about a destination belongs to its port.
Result<uint16_t> Runner::port_of(const Cell& cell, Variant variant) {
  uint16_t& port = ports_[cell.name() + " " + variant_info(variant).name];
  if (port) return port;
  Result<uint16_t> found = free_port();
  if (found) port = *found;
  return found;
}

Result<Sample> Runner::run_one(const Cell& cell, Variant variant, double seconds) {
  const std::string name = variant_info(variant).name;
  Result<uint16_t> port = port_of(cell, variant);
  if (!port) return unexpected(port.error());
  RunSpec spec;
  spec.cell = cell;
  spec.variant = variant;
  spec.seconds = seconds;
  spec.port = *port;
  spec.cpu_of_client = cpus_.front();
  spec.cpu_of_server = cell.cpus > 1 ? cpus_.at(1) : cpus_.front();
  if (!variant_info(variant).needs_engine) {
    if (variant == Variant::plain && host_)
      spec.cgroup_of_client = spec.cgroup_of_server = host_->cgroup("plain").procs_file();
    return run_cell(spec);
  }
  spec.cgroup_of_client = host_->cgroup(name).procs_file();
  spec.cgroup_of_server = host_->cgroup(variant == Variant::half ? "plain" : name).procs_file();
  // Attached only while its variant runs: the others see a kernel without it.
  if (auto attached = host_->attach(name); !attached) return unexpected(attached.error());
  Sample sample = run_cell(spec);
  if (variant != Variant::bare) sample.redirected_share = host_->take_redirected(name).share(sample.payload_bytes);
  if (auto detached = host_->detach(name); !detached) return unexpected(detached.error());
  return sample;
}

// The shortcut learns its destination; the others' first connection has their cgroup watched, which happens once on a
// host.
Result<void> Runner::warm_up(const Cell& cell) {
  for (Variant variant : plan_.variants) {
    if (!variant_info(variant).needs_engine || !cell_has_variant(cell, variant)) continue;
    const int runs = variant == Variant::shortcut ? kWarmUpRuns : 1;
    for (int i = 0; i < runs && !interrupted(); i++) {
      if (auto ran = run_one(cell, variant, kWarmUpSeconds); !ran) return unexpected(ran.error());
    }
  }
  return {};
}

Result<void> Runner::run_round(const Cell& cell, Series* series) {
  for (Variant variant : shuffled(plan_.variants)) {
    steps_done_++;
    if (!cell_has_variant(cell, variant)) continue;
    const char* name = variant_info(variant).name;
    tell(fmt::format("round {} of {}: {} {}", rounds_done_ + 1, plan_.rounds, cell.name(), name));
    Result<Sample> sample = run_one(cell, variant, plan_.seconds);
    if (!sample) return unexpected(sample.error());
    if (interrupted()) return {};  // the signal went to the ends of the run too
    series->samples[name].push_back(*sample);
  }
  return {};
}

Result<std::vector<Series>> Runner::run_cells() {
  std::vector<Series> all;
  for (const Cell& cell : plan_.cells) all.push_back(series_of(cell, plan_.variants));
  for (rounds_done_ = 0; rounds_done_ < plan_.rounds && !out_of_time(); rounds_done_++) {
    for (size_t i = 0; i < plan_.cells.size(); i++) {
      // The first round is made whole, or there would be cells without a value.
      if (interrupted() || (rounds_done_ > 0 && out_of_time())) return all;
      if (rounds_done_ == 0) {
        if (auto warm = warm_up(plan_.cells[i]); !warm) return unexpected(warm.error());
      }
      if (auto ran = run_round(plan_.cells[i], &all[i]); !ran) return unexpected(ran.error());
    }
  }
  return all;
}

Result<Sample> Runner::run_load(RunningStack* stack, Variant variant, const StackCell& cell, bool check) {
  tell(fmt::format("{} {}{}", cell.name, variant_info(variant).name, check ? " (answers compared)" : ""));
  Sample sample = stack->load(cell.concurrency, check ? 1 : plan_.stack_seconds, check);
  if (variant == Variant::shortcut) sample.redirected_share = host_->take_redirected(place_of(variant)).share();
  return sample;
}

Result<std::vector<Series>> Runner::run_stack(const StackKind& kind, const std::vector<StackCell>& cells) {
  std::vector<Series> all;
  Result<TempDir> folder = TempDir::make();
  if (!folder) return unexpected(folder.error());
  std::map<Variant, std::unique_ptr<RunningStack>> running;
  std::vector<Variant> variants;
  for (Variant variant : kStackVariants) {
    if (!has(plan_.variants, variant) || !stack_has_variant(kind, variant)) continue;
    variants.push_back(variant);
    const Cgroup& cgroup = host_->cgroup(place_of(variant));
    StackContext context;
    context.folder = folder->path() + "/" + variant_info(variant).name;
    context.cgroup_procs = cgroup.procs_file();
    context.cpu_seconds = [&cgroup] { return cgroup.cpu_seconds(); };
    context.cpu = plan_.stack_cpus == 1 ? cpus_.front() : -1;
    if (auto made = run_command({.argv = {"install", "-d", "-m", "755", context.folder}}, 5); !made)
      return unexpected(made.error());
    tell(fmt::format("start {} for {}", kind.name, variant_info(variant).name));
    auto started = kind.start(context);
    if (!started) return unexpected(started.error());
    running[variant] = std::move(*started);
  }
  for (const StackCell& cell : cells) {
    all.push_back({cell.name, "stacks", "requests/s", plan_.stack_cpus, 0, {}, {}});
    for (Variant variant : variants) all.back().variants.push_back(variant_info(variant).name);
  }
  for (int round = -1; round < plan_.rounds && !(round > 0 && out_of_time()); round++) {
    for (size_t i = 0; i < cells.size(); i++) {
      for (Variant variant : shuffled(variants)) {
        if (interrupted()) return all;
        // Round -1 warms up, teaches the profile, and compares each answer with the file.
        auto sample = run_load(running[variant].get(), variant, cells[i], round < 0);
        if (!sample) return unexpected(sample.error());
        if (interrupted()) return all;
        if (round >= 0) steps_done_++;
        if (round >= 0 || !sample->error.empty()) all[i].samples[variant_info(variant).name].push_back(*sample);
      }
    }
  }
  return all;
}

Result<std::vector<Series>> Runner::run_stacks() {
  std::vector<Series> all;
  std::vector<Variant> attached;
  for (Variant variant : kStackVariants) {
    if (!variant_info(variant).needs_engine || !has(plan_.variants, variant) || plan_.stacks.empty()) continue;
    if (auto done = host_->attach(place_of(variant)); !done) return unexpected(done.error());
    attached.push_back(variant);
  }
  size_t planned = 0;
  for (const StackKind& kind : kStacks) {
    std::vector<StackCell> cells;
    std::copy_if(plan_.stacks.begin(), plan_.stacks.end(), std::back_inserter(cells),
                 [&](const StackCell& cell) { return cell.stack == kind.name; });
    if (cells.empty() || interrupted()) continue;
    planned += cells.size();
    time_share_ = double(planned) / double(plan_.stacks.size());
    auto series = run_stack(kind, cells);
    if (!series) {  // the others are worth having all the same
      problems_.push_back(std::string(kind.name) + ": " + series.error().to_string());
      continue;
    }
    std::move(series->begin(), series->end(), std::back_inserter(all));
  }
  for (Variant variant : attached) {
    if (auto done = host_->detach(place_of(variant)); !done) return unexpected(done.error());
  }
  return all;
}

}  // namespace shunt::bench
