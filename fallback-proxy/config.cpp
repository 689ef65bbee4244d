#include <bpf/abi/punt.h>

#include <base/log_config.hpp>
#include <base/metrics_config.hpp>
#include <base/parse.hpp>
#include <fallback-proxy/config.hpp>
#include <fallback-proxy/fields.hpp>
#include <fallback-proxy/target.hpp>
#include <set>

namespace shunt::proxy {
namespace {

using Node = YAML::Node;

auto bytes_between(uint64_t min, uint64_t max) {
  return [=](const std::string& text) -> Result<uint64_t> {
    auto bytes = parse_bytes(text, max);
    if (bytes && *bytes < min) return invalid("less than " + std::to_string(min) + " bytes", "write more");
    return bytes;
  };
}

Result<std::string> parse_nonempty(const std::string& text) {
  if (text.empty() || text.find('\0') != std::string::npos) return invalid("a text is missing", "write one");
  return text;
}

Result<std::string> parse_header_name(const std::string& text) {
  if (!is_token(text)) return invalid(in_quotes(text) + " is not the name of a header", "write X-Name, for example");
  switch (is_framing_name(text) ? Known::host : known_field(text)) {
    case Known::other:
      return text;
    case Known::host:
      return invalid(in_quotes(text) + " says where a request goes or where it ends",
                     "it cannot be changed here; choose another header");
    default:
      return invalid(in_quotes(text) + " concerns one connection alone",
                     "it is the proxy's own; choose another header");
  }
}

Result<std::string> parse_header_value(const std::string& text) {
  if (!is_field_value(text) || trim(text).size() != text.size())
    return invalid(in_quotes(text) + " is not the value of a header",
                   "write it without line breaks and spaces around it");
  return text;
}

Result<std::string> parse_route_path(const std::string& text) {
  std::string normal;
  if (!normalise_path(text, normal) || text.find('?') != std::string::npos)
    return invalid(in_quotes(text) + " is not a path", "write /v1, for example");
  if (normal != text) return invalid(in_quotes(text) + " is not in its normal form", "write " + normal);
  return text;
}

Result<std::string> parse_access_path(const std::string& text) {
  return text == "-" || text.empty() ? Result<std::string>(text) : parse_absolute_path(text);
}

class ConfigReader {
 public:
  ConfigReader(Config& config, std::vector<Problem>& problems) : config_(config), reader_(problems) {}

  void read(const TextSource& source) {
    bool any = false;
    reader_.document(source, [&](const Node& root) {
      any = true;
      read_root(root);
      if (!root.IsMap()) return;
      if (config_.listeners.empty() && config_.channels.socket.empty())
        reader_.problem(root, "there is nothing to listen on", "add listeners: or channels:");
      if (!config_.listeners.empty() && !root["policies"])
        reader_.problem(root, "no policies are named", "add policies: [FILE or FOLDER]; [] forwards everything");
    });
    if (!any && reader_.problems_found() == 0)
      reader_.problem(Node(), "the configuration is empty", "see shunt-proxy.yaml(5)");
  }

 private:
  void read_root(const Node& root) {
    reader_.mapping(
        root,
        {
            {"user", [this](const Node& node) { reader_.set(config_.user, node, parse_nonempty); }},
            {"threads", [this](const Node& node) { reader_.set(config_.threads, node, number_between(1, 1024)); }},
            {"policies", [this](const Node& node) { read_texts(node, config_.policies, parse_nonempty); }},
            {"log", [this](const Node& node) { read_log_settings(reader_, node, config_.log); }},
            {"access_log", [this](const Node& node) { read_access_log(node); }},
            {"metrics",
             [this](const Node& node) {
               read_metrics_settings(reader_, node, config_.metrics_listen, &config_.tell_responses);
             }},
            {"timeouts", [this](const Node& node) { read_timeouts(node); }},
            {"limits", [this](const Node& node) { read_limits(node); }},
            {"channels", [this](const Node& node) { read_channels(node); }},
            {"listeners",
             [this](const Node& node) { reader_.list(node, [this](const Node& item) { read_listener(item); }); }},
        });
  }

  template <typename T, typename Parser>
  void read_texts(const Node& node, std::vector<T>& items, Parser parse) {
    reader_.list(node, [&](const Node& entry) {
      if (auto item = reader_.value(entry, parse)) items.push_back(std::move(*item));
    });
  }

  void read_access_log(const Node& section) {
    AccessLogSettings& log = config_.access_log;
    reader_.mapping(
        section,
        {{"path", [&](const Node& node) { reader_.set(log.path, node, parse_access_path); }},
         {"format",
          [&](const Node& node) {
            reader_.choice<LogFormat>(log.format, node, {{"text", LogFormat::logfmt}, {"json", LogFormat::json}});
          }},
         {"sample", [&](const Node& node) { reader_.set(log.sample, node, number_between(1, 1'000'000)); }}});
  }

  void read_timeouts(const Node& section) {
    Timeouts& times = config_.timeouts;
    reader_.mapping(section, {{"idle", [&](const Node& node) { reader_.set(times.idle, node, parse_timeout); }},
                              {"head", [&](const Node& node) { reader_.set(times.head, node, parse_timeout); }},
                              {"connect", [&](const Node& node) { reader_.set(times.connect, node, parse_timeout); }},
                              {"exchange", [&](const Node& node) { reader_.set(times.exchange, node, parse_timeout); }},
                              {"stop", [&](const Node& node) { reader_.set(times.stop, node, parse_timeout); }}});
  }

  void read_limits(const Node& section) {
    Limits& limits = config_.limits;
    reader_.mapping(
        section,
        {{"head", [&](const Node& node) { reader_.set(limits.head_bytes, node, bytes_between(1024, 1 << 20)); }},
         {"connections",
          [&](const Node& node) { reader_.set(limits.connections, node, number_between(1, 1'000'000)); }},
         {"discard", [&](const Node& node) { reader_.set(limits.discard_bytes, node, bytes_between(0, 1 << 30)); }}});
  }

  void read_channels(const Node& section) {
    ChannelSettings& channels = config_.channels;
    reader_.mapping(
        section,
        {{"socket", [&](const Node& node) { reader_.set(channels.socket, node, parse_absolute_path); }},
         {"count", [&](const Node& node) { reader_.set(channels.count, node, number_between(1, SH_CHANNELS_MAX)); }},
         {"body", [&](const Node& node) { reader_.set(channels.body_bytes, node, bytes_between(0, 2 << 20)); }}});
    if (section.IsMap() && !section["socket"])
      reader_.problem(section, "it is not said where shuntd is", "add socket: /run/shunt/proxy.sock");
  }

  Problem place_of(const Node& node) const {
    return {reader_.file(), node.Mark().line + 1, node.Mark().column + 1, {}, {}};
  }

  void read_listener(const Node& section) {
    Listener listener;
    const auto read_to = [&](const Node& node) {
      reader_.set(listener.destination, node, parse_nonempty);
      listener.destination_place = place_of(node);
    };
    reader_.mapping(
        section,
        {{"name", [&](const Node& node) { reader_.set(listener.name, node, parse_nonempty); }},
         {"listen", [&](const Node& node) { read_texts(node, listener.listen, parse_endpoint); }},
         {"descriptors", [&](const Node& node) { read_texts(node, listener.descriptors, parse_nonempty); }},
         {"to", read_to},
         {"port", [&](const Node& node) { reader_.set(listener.port, node, number_between(1, 65535)); }},
         {"sources",
          [&](const Node& node) { reader_.list(node, [&](const Node& item) { read_source(item, listener); }); }},
         {"upstreams", [&](const Node& node) { read_texts(node, listener.upstreams, parse_endpoint); }},
         {"headers", [&](const Node& node) { read_headers(node, listener.headers); }},
         {"routes",
          [&](const Node& node) { reader_.list(node, [&](const Node& item) { read_route(item, listener); }); }}});
    if (!section.IsMap()) return;
    check_listener(section, listener);
    config_.listeners.push_back(std::move(listener));
  }

  void check_listener(const Node& section, const Listener& listener) {
    if (!section["name"]) reader_.problem(section, "a listener needs a name", "add name:");
    if (!section["to"]) reader_.problem(section, "it is not said whose servers these are", "add to: WORKLOAD, or host");
    if (!section["listen"] && !section["descriptors"])
      reader_.problem(section, "it is not said where to listen", "add listen: [ADDRESS:PORT] or descriptors: [NAME]");
    if (!section["upstreams"] || section["upstreams"].size() == 0)
      reader_.problem(section, "it is not said where the servers are", "add upstreams: [ADDRESS:PORT]");
    if (!listener.name.empty() && !names_.insert(listener.name).second)
      reader_.problem(section["name"], "two listeners have this name", "rename one");
    for (const Endpoint& endpoint : listener.listen) {
      if (!listening_.insert(endpoint.to_string()).second)
        reader_.problem(section["listen"], endpoint.to_string() + " stands here twice", "remove one");
    }
    for (const std::string& name : listener.descriptors) {
      if (!descriptors_.insert(name).second)
        reader_.problem(section["descriptors"], in_quotes(name) + " stands here twice", "remove one");
    }
  }

  void read_source(const Node& section, Listener& listener) {
    SourceRule source;
    source.place = place_of(section);
    reader_.mapping(section, {{"network", [&](const Node& node) { reader_.set(source.network, node, parse_cidr); }},
                              {"is", [&](const Node& node) { reader_.set(source.identity, node, parse_nonempty); }}});
    if (section.IsMap() && (!section["network"] || !section["is"]))
      reader_.problem(section, "a source needs a network and what it is", "write {network: 10.0.0.0/8, is: WORKLOAD}");
    listener.sources.push_back(std::move(source));
  }

  void read_route(const Node& section, Listener& listener) {
    Route route;
    reader_.mapping(section, {{"path", [&](const Node& node) { reader_.set(route.path, node, parse_route_path); }},
                              {"headers", [&](const Node& node) { read_headers(node, route.headers); }}});
    if (section.IsMap() && !section["path"])
      reader_.problem(section, "a route needs a path", "add path: /v1, for example");
    listener.routes.push_back(std::move(route));
  }

  void read_headers(const Node& section, HeaderRules& rules) {
    reader_.mapping(section, {{"remove", [&](const Node& node) { read_texts(node, rules.remove, parse_header_name); }},
                              {"set", [&](const Node& node) { read_pairs(node, rules.set); }},
                              {"add", [&](const Node& node) { read_pairs(node, rules.add); }}});
  }

  void read_pairs(const Node& section, std::vector<NameValue>& pairs) {
    if (!section.IsMap()) return reader_.problem(section, "expected names with values", "write {X-Name: value}");
    for (const auto& entry : section) {
      NameValue pair;
      reader_.set(pair.name, entry.first, parse_header_name);
      reader_.set(pair.value, entry.second, parse_header_value);
      for (const NameValue& other : pairs) {
        if (same_name(other.name, pair.name))
          reader_.problem(entry.first, in_quotes(pair.name) + " stands here twice", "remove one");
      }
      pairs.push_back(std::move(pair));
    }
  }

  Config& config_;
  YamlReader reader_;
  std::set<std::string> names_, listening_, descriptors_;
};

}  // namespace

ConfigOutcome parse_config(const TextSource& source) {
  ConfigOutcome outcome;
  ConfigReader(outcome.config, outcome.problems).read(source);
  return outcome;
}

ConfigOutcome load_config(const std::string& file) {
  const auto text = read_config_text(file);
  if (text) return parse_config({file, *text});
  ConfigOutcome outcome;
  outcome.problems.push_back({file, 0, 0, text.error().message, text.error().remedy});
  return outcome;
}

}  // namespace shunt::proxy
