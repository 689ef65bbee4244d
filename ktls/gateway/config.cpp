#include <algorithm>
#include <base/log_config.hpp>
#include <base/metrics_config.hpp>
#include <base/parse.hpp>
#include <base/values.hpp>
#include <filesystem>
#include <ktls/gateway/config.hpp>
#include <set>

namespace shunt::gateway {
namespace {

using Node = YAML::Node;

constexpr size_t kNameBytesMax = 253;

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

// The name goes into the SNI, where no capitals and only host names are expected.
Result<std::string> parse_service_name(const std::string& text) {
  const bool sound = !text.empty() && text.size() <= kNameBytesMax && text.front() != '.' && text.back() != '.' &&
                     text.find("..") == std::string::npos && std::all_of(text.begin(), text.end(), is_name_character);
  if (!sound)
    return invalid(in_quotes(text) + " is not the name of a service",
                   "write it like a host name, in lower-case letters: web.shop");
  return text;
}

Result<std::string> parse_file(const std::string& text) { return parse_absolute_path(text); }
Result<std::string> parse_socket(const std::string& text) {
  return text.empty() ? Result<std::string>(text) : parse_absolute_path(text);
}
Result<std::string> parse_access_path(const std::string& text) { return text == "-" ? text : parse_socket(text); }
Result<std::string> parse_user_name(const std::string& text) {
  if (text.empty()) return invalid("a user is missing", std::string("write ") + kDefaultUser);
  return text;
}

class ConfigReader {
 public:
  ConfigReader(Config& config, std::vector<Problem>& problems) : config_(config), reader_(problems) {}

  void read(const TextSource& source) {
    bool any = false;
    reader_.document(source, [&](const Node& root) {
      any = true;
      read_root(root);
      if (root.IsMap()) check_root(root);
    });
    if (!any && reader_.problems_found() == 0)
      reader_.problem(Node(), "the configuration is empty", "see shunt-gateway.yaml(5)");
  }

  // Files of services on other hosts, that the configuration names.
  const std::vector<std::string>& directory_files() const { return directory_; }

  void read_directory(const TextSource& source) {
    reader_.document(source, [&](const Node& root) {
      reader_.mapping(
          root,
          {{"services", [&](const Node& node) { reader_.list(node, [&](const Node& item) { read_remote(item); }); }}});
    });
  }

 private:
  void read_root(const Node& root) {
    reader_.mapping(
        root,
        {{"user", [this](const Node& node) { reader_.set(config_.user, node, parse_user_name); }},
         {"threads", [this](const Node& node) { reader_.set(config_.threads, node, number_between(1, 1024)); }},
         {"ktls", [this](const Node& node) { read_ktls(node); }},
         {"identity", [this](const Node& node) { read_identity(node); }},
         {"trust", [this](const Node& node) { reader_.list(node, [this](const Node& item) { read_trust(item); }); }},
         {"listen", [this](const Node& node) { read_list(node, config_.listen, parse_endpoint); }},
         {"services",
          [this](const Node& node) { reader_.list(node, [this](const Node& item) { read_service(item); }); }},
         {"directory", [this](const Node& node) { read_list(node, directory_, parse_file); }},
         {"hooks", [this](const Node& node) { read_hooks(node); }},
         {"shuntd", [this](const Node& node) { read_shuntd(node); }},
         {"status", [this](const Node& node) { reader_.set(config_.status, node, parse_socket); }},
         {"metrics", [this](const Node& node) { read_metrics_settings(reader_, node, config_.metrics_listen); }},
         {"log", [this](const Node& node) { read_log_settings(reader_, node, config_.log); }},
         {"access_log", [this](const Node& node) { read_access_log(node); }},
         {"timeouts", [this](const Node& node) { read_timeouts(node); }},
         {"limits", [this](const Node& node) { read_limits(node); }},
         {"revocation", [this](const Node& node) { read_revocation(node); }},
         {"max_connection_age",
          [this](const Node& node) { reader_.set(config_.max_connection_age, node, parse_timeout); }}});
  }

  void check_root(const Node& root) {
    if (!root["identity"]) reader_.problem(root, "it is not said who this gateway is", "add identity:");
    if (config_.trust.empty()) reader_.problem(root, "nobody is trusted", "add trust: [{domain: NAME, bundle: FILE}]");
    if (config_.listen.empty() && directory_.empty())
      reader_.problem(root, "there is nothing to listen on", "add listen: or directory:");
    if (!config_.hooks.empty() && config_.shuntd.empty())
      reader_.problem(root["hooks"], "shuntd turns connections to these listeners", "add shuntd: {socket: PATH}");
    if (strict_ && config_.shuntd.empty())
      reader_.problem(*strict_, "shuntd refuses plaintext to a strict service", "add shuntd: {socket: PATH}");
    if (!config_.listen.empty() && config_.services.empty())
      reader_.problem(root["listen"], "there is no service for the mesh", "add services:");
  }

  template <typename T, typename Parser>
  void read_list(const Node& node, std::vector<T>& items, Parser parse) {
    reader_.list(node, [&](const Node& entry) {
      if (auto item = reader_.value(entry, parse)) items.push_back(std::move(*item));
    });
  }

  template <typename... Keys>
  void require_keys(const Node& section, const char* what, Keys... keys) {
    if (!section.IsMap()) return;
    for (const char* key : {keys...}) {
      if (!section[key]) reader_.problem(section, std::string(what) + " needs " + key, std::string("add ") + key + ":");
    }
  }

  void read_ktls(const Node& node) {
    reader_.choice<KtlsUse>(
        config_.ktls, node,
        {{"required", KtlsUse::required}, {"preferred", KtlsUse::preferred}, {"off", KtlsUse::off}});
  }

  void read_identity(const Node& section) {
    reader_.mapping(section,
                    {{"certificate", [&](const Node& node) { reader_.set(config_.certificate, node, parse_file); }},
                     {"key", [&](const Node& node) { reader_.set(config_.key, node, parse_file); }}});
    require_keys(section, "an identity", "certificate", "key");
  }

  void read_trust(const Node& section) {
    TrustedDomain domain;
    reader_.mapping(section, {{"domain", [&](const Node& node) { reader_.set(domain.name, node, parse_trust_domain); }},
                              {"bundle", [&](const Node& node) { reader_.set(domain.bundle, node, parse_file); }},
                              {"crl", [&](const Node& node) { reader_.set(domain.crl, node, parse_file); }}});
    require_keys(section, "a trusted domain", "domain", "bundle");
    config_.trust.push_back(std::move(domain));
  }

  void read_revocation(const Node& section) {
    reader_.mapping(section, {{"deny", [&](const Node& node) { reader_.set(config_.deny, node, parse_file); }}});
    require_keys(section, "revocation", "deny");
  }

  void read_service(const Node& section) {
    LocalService service;
    reader_.mapping(section, {{"name", [&](const Node& node) { reader_.set(service.name, node, parse_service_name); }},
                              {"server", [&](const Node& node) { reader_.set(service.server, node, parse_endpoint); }},
                              {"mode", [&](const Node& node) { read_mode(node, service.mode); }},
                              {"allow", [&](const Node& node) { read_allow(node, service.allow); }}});
    require_keys(section, "a service", "name", "server");
    if (!service.name.empty() && config_.service(service.name))
      reader_.problem(section, "two services have this name", "rename one");
    config_.services.push_back(std::move(service));
  }

  void read_mode(const Node& node, ServiceMode& mode) {
    reader_.choice<ServiceMode>(
        mode, node,
        {{"permissive", ServiceMode::permissive}, {"strict", ServiceMode::strict}, {"off", ServiceMode::off}});
    if (mode == ServiceMode::strict && !strict_) strict_ = node;
  }

  void read_allow(const Node& section, std::vector<SpiffeId>& allow) {
    read_list(section, allow, parse_workload_id);
    if (section.IsSequence() && section.size() == 0)
      reader_.problem(section, "nobody is allowed", "name somebody, or remove allow:, or the service");
  }

  void read_remote(const Node& section) {
    RemoteService service;
    const auto read_place = [&](const Node& node, std::optional<Endpoint>& place) {
      if (auto endpoint = reader_.value(node, parse_endpoint)) place = *endpoint;
    };
    reader_.mapping(section,
                    {{"name", [&](const Node& node) { reader_.set(service.name, node, parse_service_name); }},
                     {"listen", [&](const Node& node) { read_place(node, service.listen); }},
                     {"address", [&](const Node& node) { read_place(node, service.address); }},
                     {"strict", [&](const Node& node) { reader_.set(service.strict, node, parse_bool); }},
                     {"gateway", [&](const Node& node) { reader_.set(service.gateway, node, parse_endpoint); }},
                     {"identity", [&](const Node& node) {
                        if (auto id = reader_.value(node, parse_workload_id))
                          service.identity.push_back(std::move(*id));
                      }}});
    require_keys(section, "a service of another host", "name", "gateway", "identity");
    if (!service.listen && !service.address)
      reader_.problem(section, "local clients cannot find the service", "add address: or listen:");
    for (const auto& place : {service.listen, service.address})
      if (place && !places_.insert(place->to_string()).second)
        reader_.problem(section, place->to_string() + " stands here twice", "choose another address or port");
    if (service.address && !config_.hook_listener(service.address->address))
      reader_.problem(section, "nobody takes what is dialled at " + service.address->to_string(),
                      "add a listener of this family: hooks: {listen: [127.0.0.1:15441, '[::1]:15441']}");
    if (!service.identity.empty()) config_.directory.push_back(std::move(service));
  }

  void read_hooks(const Node& section) {
    reader_.mapping(section, {{"listen", [this](const Node& list) {
                                 reader_.list(list, [this](const Node& node) { read_hook_listener(node); });
                               }}});
  }

  // Connections are turned to this very address: it cannot be that of all.
  void read_hook_listener(const Node& node) {
    const auto endpoint = reader_.value(node, parse_endpoint);
    if (!endpoint) return;
    Endpoint any = *endpoint;
    const size_t prefix = is_v4_mapped(any.address.data()) ? sizeof(kV4MappedPrefix) : 0;
    std::fill(any.address.begin() + prefix, any.address.end(), uint8_t{0});
    if (any.address == endpoint->address)
      return reader_.problem(node, "connections cannot be turned to all addresses", "write 127.0.0.1 or [::1]");
    if (config_.hook_listener(endpoint->address))
      return reader_.problem(node, "there is another listener of this family", "keep one");
    config_.hooks.push_back(*endpoint);
  }

  void read_shuntd(const Node& section) {
    reader_.mapping(section, {{"socket", [this](const Node& node) { reader_.set(config_.shuntd, node, parse_file); }}});
    require_keys(section, "the link to shuntd", "socket");
  }

  void read_access_log(const Node& section) {
    AccessLogSettings& log = config_.access_log;
    reader_.mapping(section, {{"path", [&](const Node& node) { reader_.set(log.path, node, parse_access_path); }},
                              {"format", [&](const Node& node) { read_log_format(reader_, node, log.format); }}});
  }

  void read_timeouts(const Node& section) {
    Timeouts& times = config_.timeouts;
    reader_.mapping(section,
                    {{"handshake", [&](const Node& node) { reader_.set(times.handshake, node, parse_timeout); }},
                     {"connect", [&](const Node& node) { reader_.set(times.connect, node, parse_timeout); }},
                     {"stop", [&](const Node& node) { reader_.set(times.stop, node, parse_timeout); }}});
  }

  void read_limits(const Node& section) {
    Limits& limits = config_.limits;
    const auto parse = number_between(1, 1'000'000);
    reader_.mapping(section, {{"connections", [&](const Node& node) { reader_.set(limits.connections, node, parse); }},
                              {"handshakes", [&](const Node& node) { reader_.set(limits.handshakes, node, parse); }}});
  }

  Config& config_;
  YamlReader reader_;
  std::vector<std::string> directory_;
  std::set<std::string> places_;
  std::optional<Node> strict_;  // the first that is said to be
};

// A folder stands for its *.yaml files.
std::vector<std::string> files_of(const std::string& path) {
  std::error_code code;
  if (!std::filesystem::is_directory(path, code)) return {path};
  std::vector<std::string> files;
  for (auto entry = std::filesystem::directory_iterator(path, code); !code && entry != std::filesystem::end(entry);
       entry.increment(code)) {
    if (entry->path().extension() == ".yaml") files.push_back(entry->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

bool read_source(const std::string& file, TextSource& source, std::vector<Problem>& problems) {
  auto text = read_config_text(file);
  if (!text) {
    problems.push_back({file, 0, 0, text.error().message, text.error().remedy});
    return false;
  }
  source = {file, std::move(*text)};
  return true;
}

}  // namespace

const LocalService* Config::service(std::string_view name) const {
  const auto found =
      std::find_if(services.begin(), services.end(), [&](const LocalService& service) { return service.name == name; });
  return found == services.end() ? nullptr : &*found;
}

const Endpoint* Config::hook_listener(const Address& address) const {
  const auto same_family = [&](const Endpoint& listener) {
    return is_v4_mapped(listener.address.data()) == is_v4_mapped(address.data());
  };
  const auto found = std::find_if(hooks.begin(), hooks.end(), same_family);
  return found == hooks.end() ? nullptr : &*found;
}

ConfigOutcome load_config(const std::string& file) {
  ConfigOutcome outcome;
  ConfigReader reader(outcome.config, outcome.problems);
  TextSource source;
  if (!read_source(file, source, outcome.problems)) return outcome;
  reader.read(source);
  for (const std::string& path : reader.directory_files()) {
    for (const std::string& part : files_of(path)) {
      if (read_source(part, source, outcome.problems)) reader.read_directory(source);
    }
  }
  return outcome;
}

}  // namespace shunt::gateway
