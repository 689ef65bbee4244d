#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <base/printable.hpp>
#include <control/render.hpp>
#include <cstdlib>
#include <iterator>
#include <map>
#include <tuple>

namespace shunt {
namespace {

using Align = Table::Align;

std::string text_of(const Json& document, const char* key) { return document.value(key, std::string()); }
uint64_t number_of(const Json& document, const char* key) { return document.value(key, uint64_t{0}); }

std::string or_dash(std::string text) { return text.empty() ? "-" : text; }

// What a terminal shows: UTF-8 continuation bytes take no column.
size_t columns_of(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string coloured_state(const std::string& state, const Style& style) {
  if (state == "fast") return style.green(state);
  return state == "stopped" ? style.red(state) : style.yellow(state);
}

std::string coloured_verdict(const std::string& verdict, const Style& style) {
  if (verdict.starts_with("allowed")) return style.green(verdict);
  return verdict == "denied" ? style.red(verdict) : style.yellow(verdict);
}

std::string field(const char* name, const std::string& value) { return fmt::format("  {:<14} {}\n", name, value); }

// The two ends of a pair stand together, the active one first; busy pairs come first.
void sort_pairs(std::vector<Json>& rows) {
  std::map<uint64_t, uint64_t> bytes;
  const auto pair_of = [](const Json& row) {
    const uint64_t own = number_of(row, "cookie");
    const uint64_t peer = number_of(row, "peer_cookie");
    return peer == 0 ? own : std::min(own, peer);
  };
  for (const Json& row : rows) bytes[pair_of(row)] += number_of(row, "redirected_bytes") + number_of(row, "tcp_bytes");
  const auto key = [&](const Json& row) {
    const uint64_t pair = pair_of(row);
    return std::tuple(~bytes[pair], pair, text_of(row, "role") != "active");
  };
  std::sort(rows.begin(), rows.end(), [&](const Json& a, const Json& b) { return key(a) < key(b); });
}

Table row_table() {
  return Table({{"LOCAL"},
                {"REMOTE"},
                {"ROLE"},
                {"STATE"},
                {"PROGRAM"},
                {"PID", Align::right},
                {"UNIT"},
                {"REDIRECTED", Align::right},
                {"TCP", Align::right},
                {"REASON"}});
}

void add_row(Table& table, const Json& row) {
  table.add({text_of(row, "local"), text_of(row, "remote"), text_of(row, "role") == "active" ? "client" : "server",
             text_of(row, "state"), or_dash(printable(text_of(row, "program"))), std::to_string(number_of(row, "pid")),
             or_dash(printable(text_of(row, "unit"))), human_bytes(number_of(row, "redirected_bytes")),
             human_bytes(number_of(row, "tcp_bytes")), text_of(row, "reason")});
}

std::string headline(const Json& status, const Style& style) {
  const std::string mode = text_of(status, "mode");
  std::string line = "shunt is " + (mode == "on" ? style.green(mode) : style.yellow(mode));
  const auto daemon = status.find("daemon");
  if (daemon == status.end()) {
    return line +
           style.yellow(mode == "off" ? ", shuntd is not running"
                                      : ", shuntd is not running: the kernel side goes on by itself") +
           "\n";
  }
  line += fmt::format(", shuntd {} runs as pid {} since {}\n", text_of(*daemon, "version"), number_of(*daemon, "pid"),
                      human_seconds(static_cast<double>(number_of(*daemon, "uptime_seconds"))));
  if (daemon->value("turned_off", false))
    line += style.yellow("  turned off by the operator: 'shunt on' turns it on again") + "\n";
  const std::string error = text_of(*daemon, "config_error");
  if (!error.empty()) line += style.red("  the last reload failed, the old configuration is in force: ") + error + "\n";
  const std::string policy = text_of(*daemon, "policy_error");
  if (!policy.empty() && policy != error)
    line += style.red("  the policy's documents are not in force: ") + printable(policy) + "\n";
  return line;
}

// "generation 3: 2 policies, 5 workloads (1 not there now), 4 sets of http rules"
std::string policy_line(const Json& policy, const Style& style) {
  if (number_of(policy, "generation") == 0) return "none in force";
  std::string text = fmt::format("generation {}", number_of(policy, "generation"));
  if (!policy.contains("policies")) return text;
  text += fmt::format(": {} policies, {} workloads", human_count(number_of(policy, "policies")),
                      human_count(number_of(policy, "workloads")));
  if (const uint64_t missing = number_of(policy, "workloads_missing"); missing > 0)
    text += style.yellow(fmt::format(" ({} not there now)", human_count(missing)));
  return text + fmt::format(", {} sets of http rules", human_count(number_of(policy, "sets")));
}

// What a policy's event says besides: who asked whom, why it was refused, by which rules.
std::string policy_text(const Json& event, const Style& style) {
  std::string text = fmt::format(" {} -> {}", printable(text_of(event, "client")), printable(text_of(event, "server")));
  if (event.contains("policy_reason"))
    text += fmt::format(": {}: {}", style.red(text_of(event, "policy_reason")), text_of(event, "policy_text"));
  for (const Json& rule : event.value("rules", Json::array())) text += "\n    " + printable(rule.get<std::string>());
  return text;
}

// "default/web (identity 256), 10.0.0.1:80, nginx[4711], /system.slice/nginx.service"
std::string end_text(const Json& end) {
  std::string text = fmt::format("{} (identity {})", printable(text_of(end, "name")), number_of(end, "identity"));
  if (end.contains("local")) text += ", " + text_of(end, "local");
  if (end.contains("pid")) text += fmt::format(", {}[{}]", printable(text_of(end, "program")), number_of(end, "pid"));
  if (end.contains("cgroup")) text += ", " + or_dash(printable(text_of(end, "cgroup")));
  if (end.contains("uid")) text += fmt::format(", uid {}", number_of(end, "uid"));
  return text;
}

// What decided one direction: the table's entry and the rules behind it.
std::string side_text(const char* name, const Json& side, const Style& style) {
  std::string text = fmt::format("  {} of {}: {}: {}\n", name, printable(text_of(side, "subject")),
                                 coloured_verdict(text_of(side, "verdict"), style), text_of(side, "text"));
  if (const auto entry = side.find("entry"); entry != side.end()) {
    const uint64_t port = number_of(*entry, "port");
    text += fmt::format("    table {}: peer {}, {}", number_of(*entry, "table"), printable(text_of(*entry, "peer")),
                        port == 0 ? "any port" : fmt::format("ports from {}", port));
    if (entry->contains("set")) text += fmt::format(", set {}", number_of(*entry, "set"));
    text += "\n";
  }
  for (const Json& rule : side.value("rules", Json::array()))
    text += "    " + printable(rule.get<std::string>()) + "\n";
  return text;
}

// How often each http rule decided, and what none of them did.
std::string hits_text(const Json& policy, const Style& style) {
  const Json rules = policy.value("rules", Json::array());
  Table table({{"HITS", Align::right}, {"HTTP RULE"}});
  for (const Json& rule : rules) table.add({human_count(number_of(rule, "hits")), printable(text_of(rule, "rule"))});
  if (table.empty()) return "";
  table.add({human_count(number_of(policy, "hits_of_no_rule")), "(no single rule)"});
  const uint64_t total = number_of(policy, "rules_total");
  return "\n" + table.text(style) +
         (rules.size() < total ? style.yellow(fmt::format("{} of {} rules shown\n", rules.size(), total)) : "");
}

std::string list_text(const Json& status, const char* key) {
  std::string text;
  for (const Json& item : status.value(key, Json::array())) {
    text += (text.empty() ? "" : ", ") + (item.is_string() ? item.get<std::string>() : item.dump());
  }
  return or_dash(text);
}

std::string gateway_line(const Json& gateway, const Style& style) {
  const uint64_t services = number_of(gateway, "services"), strict = number_of(gateway, "strict_services");
  const std::string nowhere = list_text(gateway, "strict_services_nowhere");
  std::string text =
      fmt::format("{}; {} services on other hosts, {} strict here",
                  gateway.value("linked", false) ? "linked" : style.yellow("not linked"), services, strict);
  if (const std::string expires = text_of(gateway, "certificate_expires"); !expires.empty())
    text += "; certificate until " + expires;
  if (!gateway.value("strict_services_nowhere", Json::array()).empty())
    text += style.yellow(fmt::format(" (not found: {})", nowhere));
  return text;
}

}  // namespace

Style Style::of_stdout() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool wanted = (no_color == nullptr || *no_color == '\0') && !(term != nullptr && std::string(term) == "dumb");
  return Style(wanted && isatty(STDOUT_FILENO) == 1);
}

std::string Style::wrap(const char* code, const std::string& text) const {
  return colours_ ? std::string("\033[") + code + "m" + text + "\033[0m" : text;
}

std::string Table::text(const Style& style) const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(columns_of(column.title));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); i++) widths[i] = std::max(widths[i], columns_of(row[i]));
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text;
    for (size_t i = 0; i < cells.size(); i++) {
      const std::string padding(widths[i] - columns_of(cells[i]), ' ');
      const bool right = columns_[i].align == Align::right;
      text += (i == 0 ? "" : "  ") + (right ? padding + cells[i] : cells[i] + padding);
    }
    return text.substr(0, text.find_last_not_of(' ') + 1);
  };
  std::vector<std::string> titles;
  for (const Column& column : columns_) titles.push_back(column.title);
  std::string text = style.bold(line(titles)) + "\n";
  for (const auto& row : rows_) text += line(row) + "\n";
  return text;
}

std::string human_bytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  // 1023.95 would be printed as 1024.0.
  for (; value >= 1023.95 && unit + 1 < std::size(kUnits); unit++) value /= 1024;
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string human_count(uint64_t count) {
  std::string text = std::to_string(count);
  for (size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

std::string human_seconds(double seconds) {
  const auto whole = static_cast<uint64_t>(seconds);
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m {}s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{}h {}m", whole / 3600, whole % 3600 / 60);
  return fmt::format("{}d {}h", whole / 86400, whole % 86400 / 3600);
}

std::string render_status(const Json& status, const Style& style) {
  const Json counters = status.value("counters", Json::object());
  const Json profiles = status.value("profiles", Json::object());
  std::string text = headline(status, style);
  text += field("attached to", list_text(status, "attach_points"));
  text += field("pairs",
                fmt::format("{} ({} sockets), {} made so far", human_count(number_of(status, "pairs")),
                            human_count(number_of(status, "sockets")), human_count(number_of(counters, "pairs_made"))));
  text += field("redirected", fmt::format("{} in {} messages", human_bytes(number_of(counters, "redirected_bytes")),
                                          human_count(number_of(counters, "redirected_messages"))));
  text += field("through TCP", fmt::format("{} in {} messages", human_bytes(number_of(counters, "tcp_bytes")),
                                           human_count(number_of(counters, "tcp_messages"))));
  text += field("changes", fmt::format("{} to TCP, {} back", human_count(number_of(counters, "spills")),
                                       human_count(number_of(counters, "latches"))));
  text += field("policy", policy_line(status.value("policy", Json::object()), style));
  const Json gateway = status.value("gateway", Json::object());
  if (gateway.value("linked", false) || number_of(gateway, "services") + number_of(gateway, "strict_services") > 0)
    text += field("gateway", gateway_line(gateway, style));
  text += field("memory", human_bytes(number_of(status, "memory_bytes")) + " of maps and programs");
  text += field("generations", list_text(status, "generations"));
  std::string learned;
  for (const auto& [kind, count] : profiles.items()) {
    if (count.get<uint64_t>() > 0)
      learned += fmt::format("{}{} {}", learned.empty() ? "" : ", ", count.get<uint64_t>(), kind);
  }
  if (!learned.empty()) text += field("destinations", learned);
  Table reasons({{"  WHY NOT"}, {"COUNT", Align::right}, {"MEANING"}});
  for (const Json& reason : status.value("reasons", Json::array())) {
    reasons.add({"  " + text_of(reason, "reason"), human_count(number_of(reason, "count")), text_of(reason, "text")});
  }
  return reasons.empty() ? text : text + "\n" + reasons.text(style);
}

std::string render_list(std::vector<Json> rows, uint64_t total, const Style& style) {
  if (rows.empty()) return "no enrolled sockets\n";
  sort_pairs(rows);
  Table table = row_table();
  for (const Json& row : rows) add_row(table, row);
  std::string text = table.text(style);
  if (rows.size() < total) text += style.yellow(fmt::format("{} of {} sockets shown\n", rows.size(), total));
  return text;
}

std::string render_why(const Json& why, const Style& style) {
  const Json connections = why.value("connections", Json::array());
  if (connections.empty()) return "no such connection\n";
  std::string text;
  for (const Json& row : connections) {
    const std::string reason = text_of(row, "reason");
    text += fmt::format("{} -> {}  {} (pid {})\n", text_of(row, "local"), text_of(row, "remote"),
                        or_dash(printable(text_of(row, "program"))), number_of(row, "pid"));
    text += "  " + (row.value("enrolled", false) ? coloured_state(text_of(row, "state"), style)
                                                 : style.yellow("not accelerated"));
    text += (reason == "none" ? "" : " (" + reason + ")") + ": " + printable(text_of(row, "detail")) + "\n";
  }
  const uint64_t total = number_of(why, "total");
  if (connections.size() < total)
    text += style.yellow(fmt::format("{} of {} connections shown\n", connections.size(), total));
  return text;
}

std::string render_check(const Json& probe, const Style& style) {
  Table table({{"PROBE"}, {"VERDICT"}, {"FOUND"}, {"MEANING"}});
  std::string remedies;
  double seconds = 0;
  for (const Json& item : probe.value("items", Json::array())) {
    table.add({text_of(item, "name"), text_of(item, "verdict"), or_dash(text_of(item, "found")),
               or_dash(text_of(item, "meaning"))});
    seconds += item.value("seconds", 0.0);
    const std::string remedy = text_of(item, "remedy");
    if (text_of(item, "verdict") == "fatal")
      remedies += style.red(text_of(item, "name")) + ": " + (remedy.empty() ? "no remedy is known" : remedy) + "\n";
  }
  const bool usable = probe.value("usable", false);
  return table.text(style) + remedies +
         (usable ? style.green("the kernel can run the shortcut") : style.red("the kernel cannot run the shortcut")) +
         fmt::format(" (probed in {:.1f} s)\n", seconds);
}

std::string render_policy(const Json& policy, const Style& style) {
  std::string text = field("policy", policy_line(policy, style));
  text += field("folder", text_of(policy, "directory"));
  if (const std::string error = text_of(policy, "error"); !error.empty())
    text += style.red("  error          " + printable(error)) + "\n";
  if (!policy.value("known", false)) return text;
  text += field("files", list_text(policy, "files"));
  text += field("older", text_of(policy, "existing") + ": connections that are older than the policy");
  text += field("tables",
                fmt::format("{} identities, {} subjects, {} entries, {} networks",
                            human_count(number_of(policy, "identities")), human_count(number_of(policy, "subjects")),
                            human_count(number_of(policy, "entries")), human_count(number_of(policy, "networks"))));
  const auto room = [&](const char* key) {
    const Json part = policy.value(key, Json::object());
    return fmt::format("{} of {} {}", human_count(number_of(part, "used")), human_count(number_of(part, "room")), key);
  };
  text += field("room", room("blocks") + ", " + room("results"));
  for (const Json& note : policy.value("notes", Json::array()))
    text += "  note: " + printable(note.get<std::string>()) + "\n";
  Table table({{"WORKLOAD"}, {"IDENTITY", Align::right}, {"THERE"}, {"CGROUP"}, {"NOTE"}});
  const Json places = policy.value("places", Json::array());
  for (const Json& place : places)
    table.add({printable(text_of(place, "workload")), std::to_string(number_of(place, "identity")),
               place.value("found", false) ? "yes" : "no", or_dash(printable(text_of(place, "cgroup"))),
               or_dash(printable(text_of(place, "note")))});
  if (!table.empty()) text += "\n" + table.text(style);
  const uint64_t total = number_of(policy, "workloads");
  if (places.size() < total) text += style.yellow(fmt::format("{} of {} workloads shown\n", places.size(), total));
  return text + hits_text(policy, style);
}

std::string render_trace(const Json& trace, const Style& style) {
  std::string text = "from " + end_text(trace.value("from", Json::object())) + "\nto   " +
                     end_text(trace.value("to", Json::object())) + fmt::format(", port {}\n", number_of(trace, "port"));
  if (trace.contains("request")) text += printable(text_of(trace, "request")) + "\n";
  text += fmt::format("{} by the {}, policy generation {}", coloured_verdict(text_of(trace, "verdict"), style),
                      text_of(trace, "by"), number_of(trace, "generation"));
  if (trace.contains("reason")) text += fmt::format(": {}: {}", text_of(trace, "reason"), text_of(trace, "text"));
  text += "\n" + side_text("egress", trace.value("egress", Json::object()), style);
  return text + side_text("ingress", trace.value("ingress", Json::object()), style);
}

std::string render_drain(const Json& report, bool removed, const Style& style) {
  std::string text = fmt::format("{} sockets went back to TCP", human_count(number_of(report, "sockets_left")));
  const uint64_t kept = number_of(report, "sockets_kept"), closed = number_of(report, "sockets_closed");
  if (closed)
    text += fmt::format("; {} that both ends have closed stay until their programs close them", human_count(closed));
  if (kept == 0 && closed) return text + "\n";
  if (kept == 0) return text + (removed ? "; nothing is left behind\n" : "; shunt is off\n");
  text += style.yellow(fmt::format("; {} keep their program until they close, because their reader does not read:",
                                   human_count(kept))) +
          "\n";
  Table table = row_table();
  for (const Json& row : report.value("kept", Json::array())) add_row(table, row);
  return text + table.text(style);
}

std::string render_event(const Json& event, const Style& style) {
  if (text_of(event, "type") == "lost") {
    return style.red(
        fmt::format("{} events lost: {}\n", number_of(event, "count"),
                    text_of(event, "where") == "kernel" ? "the ring buffer was full" : "this client reads too slowly"));
  }
  const std::string reason = text_of(event, "reason");
  const std::string time = text_of(event, "time");
  std::string text = fmt::format("{} {:<9} {} -> {} {}[{}]", time.size() > 11 ? time.substr(11) : time,
                                 text_of(event, "event"), text_of(event, "local"), text_of(event, "remote"),
                                 or_dash(printable(text_of(event, "program"))), number_of(event, "pid"));
  if (reason != "none") text += " " + style.yellow(reason);
  if (event.contains("client")) text += policy_text(event, style);
  if (event.contains("redirected_bytes"))
    text += " " + human_bytes(number_of(event, "redirected_bytes")) + " redirected";
  return text + "\n";
}

}  // namespace shunt
