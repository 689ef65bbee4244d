#include <fmt/format.h>

#include <algorithm>
#include <bench/report.hpp>
#include <set>
#include <vector>

namespace shunt::bench {
namespace {

using Rows = std::vector<std::vector<std::string>>;

// Width in characters of a terminal: bytes that continue a UTF-8 character do not count.
size_t width_of(const std::string& text) {
  return size_t(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

// The first row is the head. Columns without any content are left out.
std::string table(const Rows& rows) {
  std::vector<size_t> widths(rows[0].size(), 0);
  for (size_t row = 1; row < rows.size(); row++) {
    for (size_t column = 0; column < rows[row].size(); column++) {
      widths[column] = std::max(widths[column], width_of(rows[row][column]));
    }
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t column = 0; column < row.size(); column++) {
      if (widths[column] == 0) continue;
      size_t width = std::max(widths[column], width_of(rows[0][column]));
      std::string padding(width - width_of(row[column]), ' ');
      line += column == 0 ? row[column] + padding : "  " + padding + row[column];
    }
    text += "  " + line + "\n";
  }
  return text;
}

std::vector<std::string> variant_names(const Json& document) {
  std::vector<std::string> names;
  for (const auto& [name, text] : document.at("variants").items()) names.push_back(name);
  return names;
}

// The cells of one group, or with `group` empty all.
std::vector<const Json*> cells_of(const Json& document, const std::set<std::string>& groups) {
  std::vector<const Json*> cells;
  for (const Json& cell : document.at("cells")) {
    if (groups.empty() || groups.count(cell.at("group"))) cells.push_back(&cell);
  }
  return cells;
}

template <typename Field>
std::string section(const Json& document, const std::string& title, const std::set<std::string>& groups, Field field) {
  std::vector<const Json*> cells = cells_of(document, groups);
  Rows rows = {{""}};
  for (const std::string& variant : variant_names(document)) rows[0].push_back(variant);
  bool any = false;
  for (const Json* cell : cells) {
    rows.push_back({cell->at("name").get<std::string>()});
    for (const std::string& variant : variant_names(document)) {
      auto found = cell->at("variants").find(variant);
      rows.back().push_back(found == cell->at("variants").end() ? "" : field(*cell, variant, *found));
      any = any || !rows.back().back().empty();
    }
  }
  return any ? title + "\n" + table(rows) + "\n" : std::string();
}

std::string value_cell(const Json& cell, const std::string&, const Json& result) {
  if (!result.at("failures").empty() && result.at("value") == 0) return "FAILED";
  std::string failed = result.at("failures").empty() ? "" : " FAILED";
  if (!result.contains("ratio")) return rate_text(result.at("value"), cell.at("unit")) + failed;
  return ratio_text(result.at("ratio"), result.at("mark")) + failed;
}

std::string latency_cell(const Json&, const std::string&, const Json& result) {
  if (!result.contains("p50_us")) return "";
  auto number = [&](const char* name) {
    return result.contains(name) ? fmt::format("{:.1f}", result.at(name).get<double>()) : "-";
  };
  return number("p50_us") + " / " + number("p99_us") + " / " + number("p999_us");
}

std::string number_cell(const Json& result, const char* field, const char* format) {
  return result.contains(field) ? fmt::format(fmt::runtime(format), result.at(field).get<double>()) : "";
}

std::string environment_text(const Json& document) {
  const Json& environment = document.at("environment");
  const Json& plan = document.at("plan");
  const std::string emulator = environment.at("emulator");
  return fmt::format(
      "{}shunt {} on {}\n{}, {} of {} CPUs, governor {}, mitigations {}, load {}, a system call takes {:.0f} ns\n{} of "
      "{} rounds, {} s a run{}\n\n",
      emulator.empty()
          ? ""
          : fmt::format("EMULATED by QEMU in software ({}): ratios of this are not those of a CPU\n", emulator),
      environment.at("shunt").get<std::string>(), environment.at("kernel").get<std::string>(),
      environment.at("cpu").get<std::string>(), environment.at("usable_cpus").get<int>(),
      environment.at("cores").get<int>(), environment.at("governor").get<std::string>(),
      environment.at("command_line_mitigations").get<std::string>(), environment.at("load_average").get<std::string>(),
      environment.at("syscall_ns").get<double>(), plan.at("rounds_done").get<int>(), plan.at("rounds").get<int>(),
      plan.at("seconds").get<double>(), plan.at("interrupted").get<bool>() ? "; INTERRUPTED" : "");
}

// What is to be known of gateways before a figure of theirs is looked at.
std::string tls_text(const Json& document) {
  if (!document.contains("tls")) return {};
  const Json& tls = document.at("tls");
  std::string text = "two network namespaces and a veth pair; mutual TLS 1.3, " + tls.at("cipher").get<std::string>() +
                     ", one thread for each gateway, " +
                     (tls.at("cpus") == 1 ? "everything on one CPU\n" : "on all CPUs\n");
  for (const auto& [variant, who] : tls.at("encrypts").items()) {
    text += fmt::format("  in {} {} encrypts\n", variant, who.get<std::string>());
  }
  text += "cost: " + document.at("cost").at("text").get<std::string>() + "\n";
  for (const auto& [variant, why] : tls.at("absent").items()) {
    text += fmt::format("ABSENT {}: {}\n", variant, why.get<std::string>());
  }
  return text + "\n";
}

// Of all processes of a variant, and of the gateways alone.
std::string cost_sections(const Json& document) {
  if (!document.contains("cost")) return {};
  const std::string unit = document.at("cost").at("unit");
  const auto one = [&](const char* whose, const char* per, const std::set<std::string>& groups, const char* field,
                       const char* format) {
    return section(
        document, fmt::format("{}, {} per {}", whose, unit, per), groups,
        [&](const Json&, const std::string&, const Json& result) { return number_cell(result, field, format); });
  };
  return one("both gateways", "byte", {"one-way"}, "gateway_cost_per_byte", "{:.2f}") +
         one("gateways and ends", "byte", {"one-way"}, "cost_per_byte", "{:.2f}") +
         one("both gateways", "request", {"request"}, "gateway_cost_per_message", "{:.0f}") +
         one("gateways and ends", "request", {"request"}, "cost_per_message", "{:.0f}");
}

// Of both ends, where there is nobody else.
std::string cpu_sections(const Json& document) {
  if (document.contains("cost")) return {};
  return section(document, "CPU time of both ends, ns per byte", {"one-way", "slow-reader"},
                 [](const Json&, const std::string&, const Json& result) {
                   return number_cell(result, "cpu_ns_per_byte", "{:.3f}");
                 }) +
         section(document, "CPU time of both ends, ns per request", {"ping-pong", "connect", "setsockopt", "stacks"},
                 [](const Json&, const std::string&, const Json& result) {
                   return number_cell(result, "cpu_ns_per_message", "{:.0f}");
                 });
}

std::string extra_sections(const Json& document) {
  std::string text;
  if (document.contains("memory")) {
    text += "memory of connections held open\n";
    Rows rows = {{"", "connections", "paired", "kernel memory each", "maps"}};
    for (const Json& row : document.at("memory")) {
      rows.push_back({row.at("variant"), std::to_string(row.at("connections").get<uint64_t>()),
                      std::to_string(row.at("paired").get<uint64_t>()),
                      fmt::format("{:.0f} B", row.at("bytes_per_connection").get<double>()),
                      fmt::format("{:.1f} MiB", row.at("maps_bytes").get<double>() / (1 << 20))});
    }
    text += table(rows) + "\n";
  }
  for (const Json& problem : document.value("problems", Json::array())) {
    text += "NOT MEASURED: " + problem.get<std::string>() + "\n\n";
  }
  if (document.contains("bars")) {
    text += "bars (a point holds when its interval reaches the bar)\n";
    Rows rows = {{"", "ratio", "bar", "bare redirect", "prototype", "verdict"}};
    for (const Json& bar : document.at("bars")) {
      const Json& ratio = bar.at("ratio");
      std::string prototype = bar.contains("prototype") ? fmt::format("{:.2f}", bar.at("prototype").get<double>()) : "";
      rows.push_back({bar.at("name"), ratio_text(ratio, ""), fmt::format("{:.2f}", bar.at("bar").get<double>()),
                      bar.contains("bare") ? ratio_text(bar.at("bare"), "") : "", prototype,
                      bar.at("verdict").get<std::string>() +
                          (bar.value("below_prototype", false) ? ", below the prototype" : "")});
    }
    text += table(rows) + "\n";
  }
  return text;
}

}  // namespace

std::string rate_text(double value, const std::string& unit) {
  const char* prefix = value >= 1e9 ? "G" : value >= 1e6 ? "M" : value >= 1e3 ? "k" : "";
  double scaled = value >= 1e9 ? value / 1e9 : value >= 1e6 ? value / 1e6 : value >= 1e3 ? value / 1e3 : value;
  return fmt::format("{:.3g} {}{}", scaled, prefix, unit == "B/s" ? "B/s" : "/s");
}

std::string ratio_text(const Json& ratio, const std::string& mark) {
  if (ratio.at("rounds") == 0) return "-";
  std::string sign = mark == "slower" ? " ▼" : mark == "faster" ? " ▲" : mark.empty() ? "" : "  ";
  return fmt::format("{:.2f} [{:.2f} {:.2f}]{}", ratio.at("median").get<double>(), ratio.at("low").get<double>(),
                     ratio.at("high").get<double>(), sign);
}

std::string terminal_report(const Json& document) {
  const std::string base = document.at("base").at("text");
  std::string text = environment_text(document) + tls_text(document);
  text += section(
      document,
      fmt::format("ratio to {}, median and 95 % interval; ▼ slower, ▲ faster than that, from six rounds on", base), {},
      value_cell);
  text += section(document, "round trip, p50 / p99 / p99.9 in microseconds",
                  {"ping-pong", "connect", "setsockopt", "stacks", "request"}, latency_cell);
  text += cost_sections(document) + cpu_sections(document);
  text += section(document, "bytes sent and not yet read, at most", {"slow-reader"},
                  [](const Json&, const std::string&, const Json& result) {
                    return number_cell(result, "queued_bytes_max", "{:.0f}");
                  });
  text += section(document, "share of the payload that was redirected (stacks: of what enrolled sockets sent)", {},
                  [](const Json&, const std::string&, const Json& result) {
                    return number_cell(result, "redirected_share", "{:.3f}");
                  });
  return text + extra_sections(document);
}

Json compare_documents(const Json& before, const Json& after) {
  Json comparison = {{"kind", "shunt-bench-comparison"}, {"format", 1}, {"cells", Json::array()}};
  for (const Json& old_cell : before.at("cells")) {
    for (const Json& new_cell : after.at("cells")) {
      if (old_cell.at("name") != new_cell.at("name")) continue;
      Json row = {{"name", old_cell.at("name")}, {"variants", Json::object()}};
      for (const auto& [variant, was] : old_cell.at("variants").items()) {
        auto now = new_cell.at("variants").find(variant);
        if (now == new_cell.at("variants").end()) continue;
        Json& entry = row["variants"][variant];
        entry = {{"before", was.at("value")}, {"after", now->at("value")}, {"unit", old_cell.at("unit")}};
        if (!was.contains("ratio") || !now->contains("ratio")) continue;
        const Json &a = was.at("ratio"), &b = now->at("ratio");
        entry["ratio_before"] = a;
        entry["ratio_after"] = b;
        entry["mark"] = b.at("high") < a.at("low") ? "worse" : b.at("low") > a.at("high") ? "better" : "same";
      }
      comparison["cells"].push_back(row);
    }
  }
  return comparison;
}

std::string terminal_comparison(const Json& comparison) {
  Rows rows = {{"", "variant", "before", "after", "ratio before", "ratio after", "change"}};
  for (const Json& cell : comparison.at("cells")) {
    for (const auto& [variant, entry] : cell.at("variants").items()) {
      bool has_ratio = entry.contains("mark");
      rows.push_back({cell.at("name"), variant, rate_text(entry.at("before"), entry.at("unit")),
                      rate_text(entry.at("after"), entry.at("unit")),
                      has_ratio ? ratio_text(entry.at("ratio_before"), "") : "",
                      has_ratio ? ratio_text(entry.at("ratio_after"), "") : "",
                      has_ratio ? entry.at("mark").get<std::string>() : ""});
    }
  }
  return rows.size() == 1 ? "the two reports have no cell in common\n"
                          : "change: worse or better where the two intervals do not overlap\n" + table(rows);
}

}  // namespace shunt::bench
