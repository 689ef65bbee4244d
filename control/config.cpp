#include <algorithm>
#include <base/log_config.hpp>
#include <base/metrics_config.hpp>
#include <base/yaml_reader.hpp>
#include <bit>
#include <control/config.hpp>
#include <control/values.hpp>
#include <cstring>
#include <filesystem>
#include <iterator>

namespace shunt {
namespace {

using Node = YAML::Node;

Result<std::string> parse_program(const std::string& text) {
  const size_t slash = text.rfind('/');
  if (slash != std::string::npos) {
    return invalid("programs are named by the base name of their executable", "write " + text.substr(slash + 1, 31));
  }
  if (text.empty() || text.find('\0') != std::string::npos)
    return invalid("a program needs a name", "write the base name of its executable");
  return text.substr(0, SH_PROGRAM_NAME_BYTES - 1);
}

Result<uint64_t> parse_sample(const std::string& text) {
  auto number = parse_number(text, 1, 65536);
  if (number && !std::has_single_bit(*number)) {
    return invalid("'" + text + "' is not a power of two", "write " + std::to_string(std::bit_ceil(*number)));
  }
  return number;
}

Result<std::chrono::milliseconds> parse_interval(const std::string& text) {
  auto interval = parse_duration(text, std::chrono::hours(1));
  if (interval && interval->count() > 0 && *interval < std::chrono::milliseconds(100)) {
    return invalid("an interval below 100ms costs more than it shows", "write 100ms or more, or 0 for never");
  }
  return interval;
}

Result<std::string> parse_user_name(const std::string& text) {
  if (text.empty() || text.find_first_of(":/ \t\n") != std::string::npos)
    return invalid(in_quotes(text) + " is not the name of a user", "write one that getent passwd shows");
  return text;
}

bool same(const std::string& a, const std::string& b) { return a == b; }
bool same(uint32_t a, uint32_t b) { return a == b; }
bool same(const PortRange& a, const PortRange& b) { return a.first == b.first && a.last == b.last; }
bool same(const Cidr& a, const Cidr& b) {
  return a.prefix_bits == b.prefix_bits && std::memcmp(a.addr, b.addr, sizeof(a.addr)) == 0;
}

// Reads one file after another over what the earlier ones said.
class ConfigReader {
 public:
  ConfigReader(Config& config, std::vector<ConfigProblem>& problems) : config_(config), reader_(problems) {
    config_.settings.selection = Selection{};
    config_.settings.receivers.clear();
  }

  void read(const ConfigSource& source) {
    reader_.document(source, [this](const Node& root) { read_root(root); });
    config_.files.push_back(source.name);
  }

  // Lists are complete only after the last file: the shipped ones are put in front of what the files add.
  void finish() {
    Settings& settings = config_.settings;
    if (selection_defaults_) {
      const Selection own = std::exchange(settings.selection, default_selection());
      append(settings.selection, own);
    }
    std::vector<ProgramEntry> receivers;
    if (receivers_shipped_) receivers = shipped_receivers();
    for (const ProgramEntry& entry : receivers_add_) {
      std::erase_if(receivers, [&](const ProgramEntry& other) { return other.name == entry.name; });
      receivers.push_back(entry);
    }
    std::erase_if(receivers, [this](const ProgramEntry& entry) {
      return std::find(receivers_remove_.begin(), receivers_remove_.end(), entry.name) != receivers_remove_.end();
    });
    settings.receivers = std::move(receivers);
    for (const std::string& cgroup : config_.gateway.cgroups)
      if (!settings.selection.reaches(cgroup))
        reader_.problem(Node(), "gateway.cgroups: " + cgroup + " is not within selection.cgroups", "select it, too");
  }

 private:
  void read_root(const Node& root) {
    reader_.mapping(root,
                    {
                        {"log", [this](const Node& node) { read_log_settings(reader_, node, config_.daemon.log); }},
                        {"control", [this](const Node& node) { read_control(node); }},
                        {"metrics",
                         [this](const Node& node) {
                           read_metrics_settings(reader_, node, config_.daemon.metrics_listen,
                                                 &config_.settings.tell_responses);
                         }},
                        {"proxy", [this](const Node& node) { read_proxy(node); }},
                        {"paths", [this](const Node& node) { read_paths(node); }},
                        {"selection", [this](const Node& node) { read_selection(node); }},
                        {"receivers", [this](const Node& node) { read_receivers(node); }},
                        {"spill", [this](const Node& node) { read_spill(node); }},
                        {"firewall", [this](const Node& node) { read_firewall(node); }},
                        {"profile", [this](const Node& node) { read_profile(node); }},
                        {"drain", [this](const Node& node) { read_drain(node); }},
                        {"policy", [this](const Node& node) { read_policy(node); }},
                        {"gateway", [this](const Node& node) { read_gateway(node); }},
                    });
  }

  void read_control(const Node& section) {
    reader_.mapping(section, {{"socket", [this](const Node& node) { read_socket(node); }}});
  }

  void read_socket(const Node& node) {
    constexpr size_t kSocketPathMax = 107;  // sun_path
    reader_.set(config_.daemon.socket, node, [](const std::string& text) -> Result<std::string> {
      if (text.size() > kSocketPathMax)
        return invalid("the path of a socket has at most 107 bytes", "choose a shorter one");
      return parse_absolute_path(text);
    });
  }

  void read_proxy(const Node& section) {
    reader_.mapping(
        section, {{"user", [&](const Node& node) { reader_.set(config_.daemon.proxy_user, node, parse_user_name); }}});
  }

  void read_paths(const Node& section) {
    Paths& paths = config_.paths;
    reader_.mapping(
        section,
        {
            {"bpffs", [&](const Node& node) { reader_.set(paths.bpffs, node, parse_absolute_path); }},
            {"pins", [&](const Node& node) { reader_.set(paths.pin_dir, node, parse_absolute_path); }},
            {"cgroup_root", [&](const Node& node) { reader_.set(paths.cgroup_root, node, parse_absolute_path); }},
            {"state", [&](const Node& node) { reader_.set(config_.daemon.state_dir, node, parse_absolute_path); }},
        });
  }

  void read_selection(const Node& section) {
    Selection& selection = config_.settings.selection;
    reader_.mapping(
        section, {
                     {"defaults", [this](const Node& node) { reader_.set(selection_defaults_, node, parse_bool); }},
                     {"cgroups", [&](const Node& node) { read_in_out(node, selection.cgroups, parse_absolute_path); }},
                     {"ports", [&](const Node& node) { read_in_out(node, selection.ports, parse_port_range); }},
                     {"cidrs", [&](const Node& node) { read_in_out(node, selection.cidrs, parse_cidr); }},
                     {"programs", [&](const Node& node) { read_in_out(node, selection.programs, parse_program); }},
                     {"users", [&](const Node& node) { read_in_out(node, selection.users, parse_user); }},
                 });
  }

  template <typename T, typename Parser>
  void read_in_out(const Node& section, InOut<T>& in_out, Parser parse) {
    reader_.mapping(section, {
                                 {"include", [&](const Node& node) { read_items(node, in_out.include, parse); }},
                                 {"exclude", [&](const Node& node) { read_items(node, in_out.exclude, parse); }},
                             });
  }

  template <typename T, typename Parser>
  void read_items(const Node& node, std::vector<T>& items, Parser parse) {
    reader_.list(node, [&](const Node& entry) {
      const auto item = reader_.value(entry, parse);
      if (!item) return;
      if (items.size() >= SH_SELECT_MAX) {
        if (items.size() == SH_SELECT_MAX)
          reader_.problem(entry, "more than " + std::to_string(SH_SELECT_MAX) + " entries", "join them");
        return;
      }
      append(items, {*item});
    });
  }

  void read_receivers(const Node& section) {
    reader_.mapping(
        section,
        {
            {"shipped", [this](const Node& node) { reader_.set(receivers_shipped_, node, parse_bool); }},
            {"add",
             [this](const Node& node) { reader_.list(node, [this](const Node& entry) { read_receiver(entry); }); }},
            {"remove", [this](const Node& node) { read_items(node, receivers_remove_, parse_program); }},
        });
  }

  // "NAME", or {name: NAME, fionread: BOOL, verify: BOOL}.
  void read_receiver(const Node& node) {
    ProgramEntry entry;
    if (node.IsScalar()) {
      reader_.set(entry.name, node, parse_program);
    } else {
      reader_.mapping(node,
                      {
                          {"name", [&](const Node& value) { reader_.set(entry.name, value, parse_program); }},
                          {"fionread", [&](const Node& value) { reader_.set(entry.uses_fionread, value, parse_bool); }},
                          {"verify", [&](const Node& value) { reader_.set(entry.verify, value, parse_bool); }},
                      });
      if (node.IsMap() && !node["name"]) reader_.problem(node, "a receiver needs a name", "add name: PROGRAM");
    }
    if (entry.name.empty()) return;
    std::erase_if(receivers_add_, [&](const ProgramEntry& other) { return other.name == entry.name; });
    if (receivers_add_.size() < SH_SELECT_MAX) receivers_add_.push_back(entry);
  }

  void read_spill(const Node& section) {
    Settings& settings = config_.settings;
    reader_.mapping(
        section, {
                     {"bytes",
                      [&](const Node& node) {
                        reader_.set(settings.spill_bytes, node,
                                    [](const std::string& text) { return parse_bytes(text, 16 << 20); });
                      }},
                     {"messages",
                      [&](const Node& node) { reader_.set(settings.spill_messages, node, number_between(1, 65536)); }},
                 });
  }

  void read_firewall(const Node& section) {
    reader_.mapping(section, {{"interval", [this](const Node& node) {
                                 reader_.set(config_.settings.firewall_interval, node, parse_interval);
                               }}});
  }

  void read_profile(const Node& section) {
    Settings& settings = config_.settings;
    reader_.mapping(
        section,
        {
            {"enabled", [&](const Node& node) { reader_.set(settings.profile, node, parse_bool); }},
            {"sample", [&](const Node& node) { reader_.set(settings.profile_sample, node, parse_sample); }},
            {"one_shot_turns",
             [&](const Node& node) { reader_.set(settings.one_shot_turns, node, number_between(0, 1 << 20)); }},
            {"one_way_messages",
             [&](const Node& node) { reader_.set(settings.one_way_messages, node, number_between(1, 1 << 20)); }},
            {"bulk_bytes",
             [&](const Node& node) {
               reader_.set(settings.bulk_bytes, node,
                           [](const std::string& text) { return parse_bytes(text, 1 << 30); });
             }},
        });
  }

  void read_policy(const Node& section) {
    PolicySettings& policy = config_.policy;
    Settings& settings = config_.settings;
    reader_.mapping(section, {
                                 {"directory",
                                  [&](const Node& node) {
                                    reader_.set(policy.directory, node, parse_absolute_path);
                                    policy.directory_named = true;
                                  }},
                                 {"existing",
                                  [&](const Node& node) {
                                    reader_.choice<sh_policy_existing>(
                                        policy.existing, node,
                                        {{"reset", SH_POLICY_EXISTING_RESET}, {"grace", SH_POLICY_EXISTING_GRACE}});
                                  }},
                                 {"blocks",
                                  [&](const Node& node) {
                                    reader_.set(settings.policy_blocks, node, number_between(2, SH_POLICY_BLOCKS_MAX));
                                  }},
                                 {"results",
                                  [&](const Node& node) {
                                    reader_.set(settings.policy_results, node,
                                                number_between(16, SH_POLICY_RESULTS_MAX));
                                  }},
                             });
  }

  void read_gateway(const Node& section) {
    GatewaySettings& gateway = config_.gateway;
    reader_.mapping(section,
                    {{"config", [&](const Node& node) { reader_.set(gateway.config, node, parse_absolute_path); }},
                     {"cgroups", [&](const Node& node) { read_items(node, gateway.cgroups, parse_absolute_path); }}});
    if (section.IsMap() && section["cgroups"] && gateway.config.empty())
      reader_.problem(section, "it is not said which gateway these cgroups are for", "add config: FILE");
  }

  void read_drain(const Node& section) {
    reader_.mapping(section, {{"deadline", [this](const Node& node) {
                                 reader_.set(config_.daemon.drain_deadline, node, [](const std::string& text) {
                                   return parse_duration(text, std::chrono::minutes(10));
                                 });
                               }}});
  }

  template <typename T>
  static void append(std::vector<T>& items, const std::vector<T>& more) {
    for (const T& item : more) {
      if (std::none_of(items.begin(), items.end(), [&](const T& other) { return same(item, other); }))
        items.push_back(item);
    }
  }

  template <typename T>
  static void append(InOut<T>& in_out, const InOut<T>& more) {
    append(in_out.include, more.include);
    append(in_out.exclude, more.exclude);
  }

  static void append(Selection& selection, const Selection& more) {
    append(selection.cgroups, more.cgroups);
    append(selection.ports, more.ports);
    append(selection.cidrs, more.cidrs);
    append(selection.programs, more.programs);
    append(selection.users, more.users);
  }

  Config& config_;
  YamlReader reader_;
  bool selection_defaults_ = true;
  bool receivers_shipped_ = true;
  std::vector<ProgramEntry> receivers_add_;
  std::vector<std::string> receivers_remove_;
};

// conf.d/*.yaml beside the file, in byte order of their names.
std::vector<std::string> drop_ins(const std::string& file, std::vector<ConfigProblem>& problems) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(file).parent_path() / "conf.d";
  std::error_code code;
  std::vector<std::string> files;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    const std::string name = it->path().filename();
    if (name.starts_with('.')) continue;
    if (it->path().extension() == ".yaml") files.push_back(it->path());
    if (it->path().extension() == ".yml") {
      problems.push_back({it->path(), 0, 0, "only files that end in .yaml are read", "rename it, or remove it"});
    }
  }
  if (code && code != std::errc::no_such_file_or_directory) {
    problems.push_back({folder, 0, 0, "cannot list: " + code.message(), ""});
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

Config default_config() { return parse_config({}).config; }

ConfigOutcome parse_config(const std::vector<ConfigSource>& sources) {
  ConfigOutcome outcome;
  ConfigReader reader(outcome.config, outcome.problems);
  for (const ConfigSource& source : sources) reader.read(source);
  reader.finish();
  return outcome;
}

ConfigOutcome load_config(const std::string& file, bool required) {
  std::vector<ConfigProblem> problems;
  std::vector<ConfigSource> sources;
  std::vector<std::string> files = drop_ins(file, problems);
  files.insert(files.begin(), file);
  for (const std::string& name : files) {
    auto text = read_config_text(name);
    if (text) {
      sources.push_back({name, std::move(*text)});
    } else if (name != file || required || text.error().code != ENOENT) {
      problems.push_back({name, 0, 0, text.error().message, text.error().remedy});
    }
  }
  ConfigOutcome outcome = parse_config(sources);
  outcome.problems.insert(outcome.problems.begin(), problems.begin(), problems.end());
  return outcome;
}

}  // namespace shunt
