#include <base/printable.hpp>
#include <control/values.hpp>

namespace shunt {

Result<PortRange> parse_port_range(std::string_view text) {
  const size_t dash = text.find('-');
  const auto first = parse_number(text.substr(0, dash), 1, 65535);
  const auto last = dash == std::string_view::npos ? first : parse_number(text.substr(dash + 1), 1, 65535);
  if (!first || !last) return invalid(in_quotes(text) + " is not a port or a range of ports", "write 80 or 8000-8100");
  if (*first > *last) {
    return invalid(in_quotes(text) + " is an empty range", "write the lower port first");
  }
  return PortRange{static_cast<uint16_t>(*first), static_cast<uint16_t>(*last)};
}

}  // namespace shunt
