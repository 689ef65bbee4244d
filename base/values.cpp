#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <base/address.hpp>
#include <base/printable.hpp>
#include <base/values.hpp>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <vector>

namespace shunt {
namespace {

struct Unit {
  std::string_view suffix;
  uint64_t factor;
};

// A whole number with one of the units; a number without a suffix is taken only where the list has an empty suffix.
template <size_t N>
std::optional<uint64_t> parse_scaled(std::string_view text, const std::array<Unit, N>& units, uint64_t max) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || text.empty()) return std::nullopt;
  const std::string_view suffix = text.substr(static_cast<size_t>(end - text.data()));
  for (const Unit& unit : units) {
    if (suffix != unit.suffix) continue;
    if (number > max / unit.factor) return std::nullopt;
    return number * unit.factor;
  }
  return std::nullopt;
}

}  // namespace

Result<uint32_t> parse_user(std::string_view text) {
  if (!text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    const auto uid = parse_number(text, 0, UINT32_MAX - 1);
    if (!uid) return invalid(in_quotes(text) + " is not a uid");
    return static_cast<uint32_t>(*uid);
  }
  const std::string name(text);
  if (name.empty() || name.find('\0') != std::string::npos) return invalid(in_quotes(text) + " is not a user");
  std::vector<char> buffer(16384);
  passwd entry{};
  passwd* found = nullptr;
  const int code = getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (code == 0 && found != nullptr) return entry.pw_uid;
  return invalid("there is no user " + in_quotes(text), "write the number of the uid, or create the user first");
}

Result<uint64_t> parse_bytes(std::string_view text, uint64_t max) {
  constexpr std::array<Unit, 5> kUnits = {{{"", 1}, {"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}}};
  const auto bytes = parse_scaled(text, kUnits, max);
  if (!bytes) {
    return invalid(in_quotes(text) + " is not a size of at most " + std::to_string(max) + " bytes",
                   "write a number of bytes, or one with KiB, MiB or GiB");
  }
  return *bytes;
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text, std::chrono::milliseconds max) {
  constexpr std::array<Unit, 4> kUnits = {{{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}}};
  if (text == "0") return std::chrono::milliseconds(0);
  const auto ms = parse_scaled(text, kUnits, static_cast<uint64_t>(max.count()));
  if (!ms) {
    return invalid(in_quotes(text) + " is not a time of at most " + std::to_string(max.count() / 1000) + "s",
                   "write a whole number with ms, s, m or h");
  }
  return std::chrono::milliseconds(*ms);
}

Result<std::chrono::milliseconds> parse_timeout(const std::string& text) {
  const auto time = parse_duration(text, std::chrono::hours(24));
  if (time && time->count() == 0) return invalid("nothing can be done in no time", "write 1s, for example");
  return time;
}

Result<bool> parse_bool(std::string_view text) {
  for (const char* word : {"true", "yes", "on"}) {
    if (text == word) return true;
  }
  for (const char* word : {"false", "no", "off"}) {
    if (text == word) return false;
  }
  return invalid(in_quotes(text) + " is not true or false");
}

Result<ListenAddress> parse_listen_address(std::string_view text) {
  const size_t colon = text.rfind(':');
  const std::string remedy = "write 127.0.0.1:9615 or [::1]:9615";
  if (colon == std::string_view::npos) return invalid(in_quotes(text) + " is not ADDRESS:PORT", remedy);
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const auto port = parse_number(text.substr(colon + 1), 1, 65535);
  const auto addr = parse_address(host);
  if (!port || !addr || bracketed != (host.find(':') != std::string_view::npos)) {
    return invalid(in_quotes(text) + " is not ADDRESS:PORT", remedy);
  }
  ListenAddress listen;
  std::copy(addr->begin(), addr->end(), listen.addr);
  listen.port = static_cast<uint16_t>(*port);
  return listen;
}

Result<std::string> parse_absolute_path(const std::string& text) {
  const bool has_dots = ("/" + text + "/").find("/../") != std::string::npos;
  if (text.empty() || text.front() != '/' || has_dots || text.find('\0') != std::string::npos) {
    return invalid("this is not an absolute path", "write a path that begins with / and has no ..");
  }
  return text.size() > 1 && text.back() == '/' ? text.substr(0, text.size() - 1) : text;
}

Result<std::string> read_config_text(const std::string& file, size_t bytes_max) {
  std::error_code code;
  const auto status = std::filesystem::status(file, code);
  if (code) return unexpected(code.value(), "cannot read");
  if (!std::filesystem::is_regular_file(status)) return invalid("not a regular file", "");
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return unexpected(errno, "cannot read");
  std::string text;
  char part[16 << 10];
  do {
    stream.read(part, sizeof(part));
    text.append(part, static_cast<size_t>(stream.gcount()));
  } while (stream && text.size() <= bytes_max);
  if (stream.bad()) return unexpected(EIO, "cannot read");
  if (text.size() > bytes_max)
    return invalid("larger than " + std::to_string(bytes_max >> 20) + " MiB", "this is no configuration of shunt");
  return text;
}

}  // namespace shunt
