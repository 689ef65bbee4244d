// Fills what the sources know into the manual pages: the lists of reasons, counters and exit codes, the shipped
// receivers and selection. Run by the build, not installed: manual VERSION TEMPLATE > PAGE.
#include <bpf/abi/shunt.h>

#include <base/address.hpp>
#include <control/exit_codes.hpp>
#include <fstream>
#include <functional>
#include <iostream>
#include <ktls/gateway/reasons.hpp>
#include <ktls/identity/reasons.hpp>
#include <ktls/reasons.hpp>
#include <map>
#include <sockops/settings.hpp>
#include <string>

namespace {

using namespace shunt;

// A line of text must not begin with a control character of roff, and hyphens of names are not to be broken.
std::string roff(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\\')
      escaped += "\\e";
    else if (c == '-')
      escaped += "\\-";
    else
      escaped += c;
  }
  return escaped.starts_with('.') || escaped.starts_with('\'') ? "\\&" + escaped : escaped;
}

std::string entry(const std::string& name, const std::string& text) {
  return ".TP\n.B " + roff(name) + "\n" + roff(text) + "\n";
}

std::string reasons() {
  std::string page;
#define SHUNT_REASON_ENTRY(id, name, text) page += entry(name, text);
  SH_REASONS(SHUNT_REASON_ENTRY)
#undef SHUNT_REASON_ENTRY
  return page;
}

std::string gateway_reasons() {
  std::string page;
#define SHUNT_REASON_ENTRY(id, name, text) page += entry(name, text);
  GATEWAY_REASONS(SHUNT_REASON_ENTRY)
#undef SHUNT_REASON_ENTRY
  return page;
}

std::string peer_reasons() {
  std::string page;
#define SHUNT_REASON_ENTRY(id, name, text, verify_error) page += entry(name, text);
  PEER_REASONS(SHUNT_REASON_ENTRY)
#undef SHUNT_REASON_ENTRY
  return page;
}

std::string ktls_reasons() {
  std::string page;
#define SHUNT_REASON_ENTRY(id, name, text, remedy) page += entry(name, text);
  KTLS_REASONS(SHUNT_REASON_ENTRY)
#undef SHUNT_REASON_ENTRY
  return page;
}

std::string counters() {
  std::string page;
#define SHUNT_COUNTER_ENTRY(id, name, help) page += entry(std::string("shunt_") + name + "_total", help);
  SH_COUNTERS(SHUNT_COUNTER_ENTRY)
#undef SHUNT_COUNTER_ENTRY
  const std::string of_closed = ", of closed sockets";
  for (size_t at = page.find(of_closed); at != std::string::npos; at = page.find(of_closed))
    page.erase(at, of_closed.size());
  return page;
}

std::string exit_codes() {
  std::string page;
#define SHUNT_EXIT_ENTRY(number, name, text) page += entry(#number, text);
  SHUNT_EXIT_CODES(SHUNT_EXIT_ENTRY)
#undef SHUNT_EXIT_ENTRY
  return page;
}

std::string receivers() {
  std::string page;
  for (const ProgramEntry& program : shipped_receivers()) {
    std::string notes;
    if (program.uses_fionread) notes += ", where FIONREAD is right";
    if (program.verify) notes += ", after it was inspected";
    page += (page.empty() ? "" : ";\n") + roff(program.name + notes);
  }
  return page + ".\n";
}

template <typename T>
std::string items(const std::string& what, const std::vector<T>& values,
                  const std::function<std::string(const T&)>& shown) {
  std::string line;
  for (const T& value : values) line += (line.empty() ? what + " " : ", ") + shown(value);
  return line.empty() ? "" : roff(line) + "\n.br\n";
}

std::string one_way(const std::string& name, const std::string& list) { return name + "." + list + ":"; }

template <typename T>
std::string in_out(const std::string& name, const InOut<T>& values, const std::function<std::string(const T&)>& shown) {
  return items<T>(one_way(name, "include"), values.include, shown) +
         items<T>(one_way(name, "exclude"), values.exclude, shown);
}

std::string selection() {
  const Selection shipped = default_selection();
  const std::function<std::string(const std::string&)> text = [](const std::string& value) { return value; };
  std::string page = in_out<std::string>("cgroups", shipped.cgroups, text);
  page += in_out<PortRange>("ports", shipped.ports, [](const PortRange& range) {
    return range.first == range.last ? std::to_string(range.first)
                                     : std::to_string(range.first) + "-" + std::to_string(range.last);
  });
  page += in_out<Cidr>("cidrs", shipped.cidrs, [](const Cidr& cidr) {
    const int prefix = cidr.prefix_bits - (is_v4_mapped(cidr.addr) ? 96 : 0);
    return format_address(cidr.addr) + "/" + std::to_string(prefix);
  });
  page += in_out<std::string>("programs", shipped.programs, text);
  page += in_out<uint32_t>("users", shipped.users, [](const uint32_t& uid) { return std::to_string(uid); });
  return page;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::map<std::string, std::function<std::string()>> lists = {
      {"@REASONS@", reasons},           {"@COUNTERS@", counters},         {"@GATEWAY_REASONS@", gateway_reasons},
      {"@PEER_REASONS@", peer_reasons}, {"@KTLS_REASONS@", ktls_reasons}, {"@EXIT_CODES@", exit_codes},
      {"@RECEIVERS@", receivers},       {"@SELECTION@", selection}};
  const std::string version = "@VERSION@";
  std::ifstream page(argv[2]);
  for (std::string line; std::getline(page, line);) {
    const auto list = lists.find(line);
    const size_t at = line.find(version);
    if (at != std::string::npos) line.replace(at, version.size(), argv[1]);
    std::cout << (list != lists.end() ? list->second() : line + "\n");
  }
  return page.eof() && std::cout.flush() ? 0 : 1;
}
