#include "socket/mutant.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <sockops/install_settings.hpp>
#include <sockops/pins.hpp>
#include <thread>
#include <utility>

namespace shunt::test {

namespace {

struct ObjectCloser {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};
using Object = std::unique_ptr<bpf_object, ObjectCloser>;

Generation generation_in_force(const Accelerated& shortcut) {
  const auto found = generations(shortcut.paths());
  require(!found.empty(), "find the pinned generation");
  return found.back();
}

// With every map that the engine pinned.
Object load(const Accelerated& shortcut, const std::string& mutant) {
  const std::string path = fmt::format("{}/{}.bpf.o", SHUNT_MUTANTS, mutant);
  Object object(bpf_object__open_file(path.c_str(), nullptr));
  require(object != nullptr, "open " + path);
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object.get()) {
    const std::string name = bpf_map__name(map);
    if (bpf_map__is_internal(map)) continue;
    const auto pin = open_map(shortcut.paths(), generation_in_force(shortcut), name);
    require(pin.has_value(), "open the pinned map " + name);
    require(bpf_map__reuse_fd(map, pin->get()) == 0, "use the pinned map " + name);
  }
  require(bpf_object__load(object.get()) == 0, "load " + path);
  return object;
}

int program(const Object& object, const char* name) {
  const bpf_program* found = bpf_object__find_program_by_name(object.get(), name);
  require(found != nullptr, std::string("find the program ") + name);
  return bpf_program__fd(found);
}

void update_links(const std::string& dir, const std::string& prefix, int program) {
  int updated = 0;
  for (const auto& name : list_dir(dir)) {
    if (!name.starts_with(prefix)) continue;
    const auto link = open_pin(dir + "/" + name);
    require(link && bpf_link_update(link->get(), program, nullptr) == 0, "update the link " + name);
    ++updated;
  }
  require(updated > 0, "find a link " + prefix + "* in " + dir);
}

}  // namespace

void put_in_force(Accelerated& shortcut, const std::string& mutant) {
  const Object object = load(shortcut, mutant);
  const uint32_t slot = 0;
  const int judge = program(object, "sh_msg_judge");
  const int programs = bpf_object__find_map_fd_by_name(object.get(), "sh_msg_progs");
  require(bpf_map_update_elem(programs, &slot, &judge, BPF_ANY) == 0, "swap the sk_msg program");
  const std::string dir = generation_in_force(shortcut).dir;
  update_links(links_dir(shortcut.paths()), "ops-", program(object, "sh_sock_ops"));
  update_links(dir, "guard-", program(object, "sh_setsockopt"));
  const std::string leave = dir + "/prog_iter_leave";
  unlink(leave.c_str());
  require(bpf_obj_pin(program(object, "sh_iter_leave"), leave.c_str()) == 0, "pin " + leave);
}

void change_config(Accelerated& shortcut, const std::function<void(sh_config&)>& change) {
  const auto map = open_map(shortcut.paths(), generation_in_force(shortcut), "sh_configs");
  require(map.has_value(), "open the kernel side's settings");
  auto config = read_config(map->get());
  require(config.has_value(), "read the kernel side's settings");
  change(*config);
  const uint32_t zero = 0;
  require(bpf_map_update_elem(map->get(), &zero, &*config, BPF_ANY) == 0, "write the kernel side's settings");
}

ProbeReport without_verdict() {
  ProbeReport report = host_probe();
  report.verdict_works = false;
  return report;
}

void expect_remedy(const Remedy& remedy, const Provocation& provoke) {
  int rounds = 0;
  std::string seen;
  {
    Remedy without = remedy;
    if (remedy.without) remedy.without(without);
    Accelerated shortcut(without.settings, Accelerated::Guard::at_once, without.probe);
    if (!remedy.mutant.empty()) put_in_force(shortcut, remedy.mutant);
    const InCgroup inside(shortcut.cgroup());
    while (seen.empty() && rounds < remedy.rounds_to_see) {
      seen = provoke(shortcut);
      ++rounds;
    }
    ASSERT_FALSE(seen.empty()) << "without the remedy the hazard was not seen in " << rounds << " rounds; "
                               << shortcut.summary();
  }
  fmt::print("without the remedy, round {}: {}\n", rounds, seen);
  Accelerated shortcut(remedy.settings, Accelerated::Guard::at_once, remedy.probe);
  const InCgroup inside(shortcut.cgroup());
  for (int round = 0; round < std::max(rounds, remedy.rounds); ++round)
    ASSERT_EQ(provoke(shortcut), "") << "with the remedy, round " << round << "; " << shortcut.summary();
}

void settle() { std::this_thread::sleep_for(kSettle); }

Connection fast_pair(Accelerated& shortcut) {
  Connection connection = connect_pair();
  if (!shortcut.make_fast(connection)) {
    ADD_FAILURE() << describe(shortcut.row(connection.client.get())) << "\n"
                  << describe(shortcut.row(connection.server.get()));
  }
  return connection;
}

ThroughTcp::ThroughTcp(Accelerated& shortcut) : shortcut_(shortcut) {
  change_config(shortcut_, [this](sh_config& config) { one_way_messages_ = std::exchange(config.one_way_msgs, 0); });
}

ThroughTcp::~ThroughTcp() {
  change_config(shortcut_, [this](sh_config& config) { config.one_way_msgs = one_way_messages_; });
}

}  // namespace shunt::test
