#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <bench/tls.hpp>

namespace shunt::bench {
namespace {

constexpr double kProbeSeconds = 0.01;
constexpr double kTlsWarmUpSeconds = 0.05;

uint32_t ip_of(const char* text) {
  in_addr address{};
  inet_pton(AF_INET, text, &address);
  return ntohl(address.s_addr);
}

}  // namespace

std::vector<Cell> all_tls_cells(int cpus) {
  std::vector<Cell> cells;
  for (uint32_t bytes : {1u << 10, 16u << 10, 1u << 20}) cells.push_back({CellKind::one_way, bytes, cpus});
  for (uint32_t bytes : {1u << 10, 16u << 10, 1u << 20}) {
    for (int connections : {1, 16}) {
      // Sixteen responses of 1 MiB are a stream again.
      if (bytes <= (16u << 10) || connections == 1) cells.push_back({CellKind::request, bytes, cpus, connections});
    }
  }
  return cells;
}

// Not to be taken for a cell on loopback when reports are compared.
std::string tls_cell_name(const Cell& cell) { return "tls/" + cell.name(); }

Result<void> TlsRunner::open() {
  if (geteuid() != 0) {
    return unexpected(Error{EPERM, "two hosts are made of network namespaces, which needs root", "run as root"});
  }
  sweep_leftovers();
  Result<Cgroup> top = Cgroup::make("/shunt-bench-" + std::to_string(getpid()));
  if (!top) return unexpected(top.error());
  top_.push_back(std::make_unique<Cgroup>(std::move(*top)));
  Result<TempDir> folder = TempDir::make();
  if (!folder) return unexpected(folder.error());
  folder_.push_back(std::move(*folder));
  auto identities = make_tls_identities(folder_.front().path());
  if (!identities) return unexpected(identities.error());
  for (const TlsVariant* variant : plan_.variants) {
    if (interrupted()) return {};
    if (progress_) progress_(fmt::format("start {}", variant->name), 0);
    if (auto opened = open_variant(*variant, *identities); !opened) {
      problems_.push_back(fmt::format("{}: {}", variant->name, opened.error().to_string()));
    } else {
      running_.push_back(variant);
    }
  }
  return {};
}

Result<std::unique_ptr<TlsRunner::Place>> TlsRunner::make_place(const TlsVariant& variant) {
  const std::string path = top_.front()->path() + "/" + variant.name;
  Result<Cgroup> gateways = Cgroup::make(path + "-gateways");
  if (!gateways) return unexpected(gateways.error());
  Result<Cgroup> ends = Cgroup::make(path + "-ends");
  if (!ends) return unexpected(ends.error());
  auto place = std::make_unique<Place>(std::move(*gateways), std::move(*ends));
  for (const Cgroup* cgroup : {&place->gateways, &place->ends}) {
    auto meter = CostMeter::open(*cgroup, source_);
    if (!meter) return unexpected(meter.error());
    place->meters.push_back(std::move(*meter));
  }
  place->context.folder = folder_.front().path() + "/" + variant.name;
  place->context.cgroup_procs = place->gateways.procs_file();
  place->context.cpu = plan_.cpus == 1 ? cpus_.front() : -1;
  if (auto made = run_all({"mkdir " + place->context.folder}, -1); !made) return unexpected(made.error());
  if (auto made = make_two_hosts(&place->stack); !made) return unexpected(made.error());
  return place;
}

Result<void> TlsRunner::open_variant(const TlsVariant& variant, const TlsIdentities& identities) {
  auto made = make_place(variant);
  if (!made) return unexpected(made.error());
  Place* place = (places_[variant.name] = std::move(*made)).get();
  auto started = variant.start(&place->stack, place->context, identities);
  if (started) started = see_who_encrypts(variant, place);
  if (!started) places_.erase(variant.name);
  return started;
}

// When a request has gone all the way: what crosses between the hosts, and whose keys they were.
Result<void> TlsRunner::see_who_encrypts(const TlsVariant& variant, Place* place) {
  auto listener = ServerHelloListener::open(place->stack.namespaces[0].get());
  if (!listener) return unexpected(listener.error());
  const Cell probe = {CellKind::request, 1u << 10};
  std::string last;
  auto ready = [&] {
    last = run_one(probe, variant, kProbeSeconds).error;
    return last.empty();
  };
  if (auto waited = wait_ready(&place->stack, ready, place->context.folder + "/servers.log"); !waited) {
    Error error = waited.error();
    error.message += "; " + last;
    return unexpected(error);
  }
  const uint16_t expected = variant.encrypts ? kTlsCipherSuite : 0, suite = listener->suite();
  if (suite != expected) {
    return unexpected(Error{
        EPROTO, fmt::format("the cipher suite between the hosts is {:#06x} and not {:#06x}", suite, expected), {}});
  }
  // The gateways' own trials of the kernel, at their start, count too: so from here on.
  const auto count = [&](size_t host) { return kernel_tls_connections(place->stack.namespaces[host].get()); };
  const uint64_t before[2] = {count(0), count(1)};
  if (!ready()) return unexpected(Error{EIO, last, {}});
  for (size_t host : {0, 1}) {
    const bool by_kernel = count(host) > before[host];
    if (by_kernel != variant.by_kernel) {
      return unexpected(Error{EPROTO, by_kernel ? "the kernel encrypts" : "the kernel does not encrypt", {}});
    }
  }
  return {};
}

Sample TlsRunner::run_one(const Cell& cell, const TlsVariant& variant, double seconds) {
  const Place& place = *places_.at(variant.name);
  RunSpec spec;
  spec.cell = cell;
  spec.seconds = seconds;
  spec.port = kTlsServerPort;
  spec.cgroup_of_client = spec.cgroup_of_server = place.ends.procs_file();
  spec.cpu_of_client = cpus_.front();
  spec.cpu_of_server = plan_.cpus == 1 ? cpus_.front() : cpus_.back();
  spec.netns_of_client = place.stack.namespaces[0].get();
  spec.netns_of_server = place.stack.namespaces[1].get();
  spec.listening_ip = INADDR_ANY;
  if (!variant.encrypts) spec.dialled_ip = ip_of(kServerHost);
  if (variant.encrypts) spec.dialled_port = kTlsClientPort;
  spec.greets = true;
  spec.cost = [&place] {
    const double gateways = place.meters[0].read();
    return CostReading{gateways + place.meters[1].read(), gateways};
  };
  return run_cell(spec);
}

bool TlsRunner::out_of_time() const {
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started_;
  return interrupted() || (plan_.seconds_max > 0 && passed.count() >= plan_.seconds_max);
}

// Round -1 warms up.
void TlsRunner::run_round(const Cell& cell, Series* series, int round) {
  std::vector<const TlsVariant*> shuffled = running_;
  std::shuffle(shuffled.begin(), shuffled.end(), random_);
  for (const TlsVariant* variant : shuffled) {
    if (interrupted()) return;
    const double done = double(round + 1) / double(plan_.rounds + 1);
    if (progress_)
      progress_(fmt::format("round {} of {}: {} {}", round + 1, plan_.rounds, series->name, variant->name), done);
    Sample sample = run_one(cell, *variant, round < 0 ? kTlsWarmUpSeconds : plan_.seconds);
    if (interrupted()) return;  // the signal went to the ends of the run too
    if (round >= 0) series->samples[variant->name].push_back(sample);
    if (round < 0 && !sample.error.empty())
      problems_.push_back(fmt::format("{} {}, warming up: {}", series->name, variant->name, sample.error));
  }
}

std::vector<Series> TlsRunner::run() {
  std::vector<Series> all;
  for (const Cell& cell : plan_.cells) {
    const char* group = kind_name(cell.kind);
    all.push_back({tls_cell_name(cell), group, cell.unit(), plan_.cpus, cell.message_bytes, {}, {}});
    for (const TlsVariant* variant : running_) all.back().variants.push_back(variant->name);
  }
  // The first round is made whole, or there would be cells without a value.
  for (int round = -1; round < plan_.rounds && !(round > 0 && out_of_time()); round++) {
    for (size_t i = 0; i < plan_.cells.size(); i++) {
      if (interrupted() || (round > 0 && out_of_time())) return all;
      run_round(plan_.cells[i], &all[i], round);
    }
    rounds_done_ = round + 1;
  }
  return all;
}

Json TlsRunner::document(const std::vector<Series>& all, const Json& absent) const {
  DocumentHead head;
  head.base = kTlsVariants.front().name;
  head.base_text = kTlsVariants.front().name;
  head.plan = {{"rounds", plan_.rounds}, {"rounds_done", rounds_done_}, {"seconds", plan_.seconds},
               {"cpus", plan_.cpus},     {"seed", plan_.seed},          {"interrupted", interrupted()}};
  head.integrity =
      "one-way: XXH3 of all bytes sent against all bytes received; requests: each request and each response is "
      "numbered "
      "and compared whole; the cipher suite is read from what crosses between the hosts";
  for (const TlsVariant& variant : kTlsVariants) head.variants[variant.name] = variant.text;
  Json document = make_document(head, all);
  const CostSourceInfo& source = cost_source_info(source_);
  document["cost"] = {{"source", source.name}, {"unit", source.unit}, {"text", source.text}};
  Json encrypts = Json::object();
  for (const TlsVariant* variant : running_) encrypts[variant->name] = variant->encrypts ? variant->encrypts : "nobody";
  document["tls"] = {
      {"version", "TLS 1.3"}, {"cipher", kTlsCipher}, {"cpus", plan_.cpus}, {"encrypts", encrypts}, {"absent", absent}};
  for (const std::string& problem : problems_) document["problems"].push_back(problem);
  return document;
}

}  // namespace shunt::bench
