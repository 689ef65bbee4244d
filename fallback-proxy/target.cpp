#include <algorithm>
#include <fallback-proxy/fields.hpp>
#include <fallback-proxy/target.hpp>

namespace shunt::proxy {
namespace {

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  const char folded = lower(c);
  return folded >= 'a' && folded <= 'f' ? folded - 'a' + 10 : -1;
}

bool is_unreserved(char c) { return is_alphanumeric(c) || c == '-' || c == '.' || c == '_' || c == '~'; }

void append_escape(unsigned char byte, std::string& out) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  out += '%';
  out += kDigits[byte >> 4];
  out += kDigits[byte & 15];
}

// One character of the path, or one escape. The number of bytes taken; 0: refused.
size_t append_character(std::string_view rest, std::string& out) {
  const char c = rest.front();
  const auto byte = static_cast<unsigned char>(c);
  if (c == '%') {
    const int high = rest.size() > 2 ? hex_value(rest[1]) : -1;
    const int low = rest.size() > 2 ? hex_value(rest[2]) : -1;
    if (high < 0 || low < 0) return 0;
    const auto meant = static_cast<unsigned char>(high << 4 | low);
    if (meant < 0x20 || meant == 0x7f || meant == '/' || meant == '\\') return 0;
    if (is_unreserved(static_cast<char>(meant))) {
      out += static_cast<char>(meant);
    } else {
      append_escape(meant, out);
    }
    return 3;
  }
  if (byte <= 0x20 || byte >= 0x7f || c == '\\' || c == '#') return 0;
  if (std::string_view("\"<>^`{|}[]").find(c) != std::string_view::npos) {
    append_escape(byte, out);
  } else {
    out += c;
  }
  return 1;
}

// The segment from `start` on ends: "." and ".." are resolved, an empty one is joined with its slash before. `last`: no
// slash follows. Servers that cut parameters read "..;x" as "..".
bool end_segment(std::string& out, size_t root, size_t start, bool last) {
  const std::string_view segment = std::string_view(out).substr(start);
  std::string_view name = segment.substr(0, segment.find(';'));
  name = name.substr(0, name.find("%3B"));
  const bool dots = name == "." || name == "..";
  if (dots && name.size() != segment.size()) return false;
  if (!dots) {
    if (!last && !segment.empty()) out += '/';
    return true;
  }
  if (name == "..") {
    if (start == root + 1) return false;
    start = out.rfind('/', start - 2) + 1;
  }
  out.resize(start);
  return true;
}

bool append_query(std::string_view query, std::string& out) {
  const bool plain = std::all_of(query.begin(), query.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte > 0x20 && byte < 0x7f && c != '#';
  });
  if (plain) out.append(query);
  return plain;
}

}  // namespace

bool normalise_path(std::string_view path_and_query, std::string& out) {
  if (path_and_query.empty() || path_and_query.front() != '/') return false;
  const size_t question = std::min(path_and_query.find('?'), path_and_query.size());
  std::string_view path = path_and_query.substr(1, question - 1);
  const size_t root = out.size();
  out += '/';
  size_t segment = out.size();
  while (!path.empty()) {
    if (path.front() == '/') {
      if (!end_segment(out, root, segment, false)) return false;
      segment = out.size();
      path.remove_prefix(1);
      continue;
    }
    const size_t taken = append_character(path, out);
    if (taken == 0) return false;
    path.remove_prefix(taken);
  }
  return end_segment(out, root, segment, true) && append_query(path_and_query.substr(question), out);
}

Target split_target(std::string_view method, std::string_view target) {
  if (target.empty()) return {};
  if (target.front() == '/') return {TargetForm::origin, target, {}};
  if (target == "*") return {method == "OPTIONS" ? TargetForm::asterisk : TargetForm::refused, target, {}};
  constexpr std::string_view kScheme = "http://";
  if (!same_name(target.substr(0, kScheme.size()), kScheme)) return {};
  target.remove_prefix(kScheme.size());
  const size_t end = std::min(target.find_first_of("/?#"), target.size());
  const std::string_view authority = target.substr(0, end);
  if (authority.empty() || !is_host(authority)) return {};
  target.remove_prefix(end);
  if (!target.empty() && target.front() != '/') return {};
  return {TargetForm::absolute, target, authority};
}

bool is_host(std::string_view text) {
  std::string_view name = text;
  size_t colon;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos || close == 1) return false;
    name = text.substr(1, close - 1);
    const bool plain =
        std::all_of(name.begin(), name.end(), [](char c) { return hex_value(c) >= 0 || c == ':' || c == '.'; });
    if (!plain) return false;
    if (close + 1 == text.size()) return true;
    if (text[close + 1] != ':') return false;
    colon = close + 1;
  } else {
    colon = text.find(':');
    name = text.substr(0, colon);
    const bool plain = std::all_of(name.begin(), name.end(),
                                   [](char c) { return is_alphanumeric(c) || c == '-' || c == '.' || c == '_'; });
    if (!plain || name.empty()) return false;
    if (colon == std::string_view::npos) return true;
  }
  const std::string_view port = text.substr(colon + 1);
  return !port.empty() && port.size() <= 5 && std::all_of(port.begin(), port.end(), is_digit);
}

bool same_host(std::string_view a, std::string_view b) {
  const auto plain = [](std::string_view host) {
    return host.ends_with(":80") ? host.substr(0, host.size() - 3) : host;
  };
  return same_name(plain(a), plain(b));
}

}  // namespace shunt::proxy
