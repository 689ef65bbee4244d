#include "kernel_faults.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

namespace shunt {
namespace {

using Version = std::array<unsigned, 3>;

// The stable releases in which both are mended:
// CVE-2026-74714: iterators over TCP's sockets take a reference of a request that has none yet, and free it too early.
// CVE-2026-74589: two threads that send on one redirected socket can use the other end after it was freed.
constexpr Version kMended[] = {{6, 1, 183}, {6, 6, 152}, {6, 12, 104}, {6, 18, 45}, {7, 1, 9}};
constexpr Version kMendedFrom = {7, 2, 0};

// "6.12.104-cloud" is 6.12.104; a number that is missing is 0.
std::optional<Version> read_version(std::string_view text) {
  Version version{};
  for (size_t i = 0; i < version.size(); i++) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version[i]);
    if (error != std::errc()) return i == 0 ? std::nullopt : std::optional(version);
    text.remove_prefix(end - text.data());
    if (text.empty() || text.front() != '.') break;
    text.remove_prefix(1);
  }
  return version;
}

std::optional<Version> stable_release(std::string_view release, std::string_view version) {
  constexpr std::string_view kDebian = "Debian ";
  if (const size_t at = version.find(kDebian); at != version.npos)
    if (auto named = read_version(version.substr(at + kDebian.size()))) return named;
  return read_version(release);
}

bool is_mended(const Version& version) {
  if (version >= kMendedFrom) return true;
  return std::any_of(std::begin(kMended), std::end(kMended), [&](const Version& mended) {
    return mended[0] == version[0] && mended[1] == version[1] && version[2] >= mended[2];
  });
}

}  // namespace

Finding check_kernel_faults(std::string_view release, std::string_view version) {
  const auto stable = stable_release(release, version);
  if (!stable)
    return quirk(fmt::format("the version {} cannot be read", release),
                 "whether CVE-2026-74714 is mended cannot be told by it");
  const std::string name = fmt::format("{}.{}.{}", (*stable)[0], (*stable)[1], (*stable)[2]);
  if (is_mended(*stable)) return works(name + " has the mendings of CVE-2026-74714 and CVE-2026-74589");
  return quirk(name + " lacks, by its number, the mendings of CVE-2026-74714 and CVE-2026-74589",
               "listing, policy changes and `shunt off` on a host with very many new connections can, rarely, make the "
               "kernel free one too early: update the kernel");
}

}  // namespace shunt
