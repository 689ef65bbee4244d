#include <bpf/abi/shunt.h>

#include <iterator>
#include <sockops/engine.hpp>

namespace shunt {
namespace {

struct Reason {
  const char* name;
  const char* text;
};

constexpr Reason kReasons[] = {
#define SH_REASON_ROW(id, name, text) {name, text},
    SH_REASONS(SH_REASON_ROW)
#undef SH_REASON_ROW
};
static_assert(std::size(kReasons) == SH_REASON_COUNT);

}  // namespace

const char* reason_name(uint32_t reason) { return reason < SH_REASON_COUNT ? kReasons[reason].name : "?"; }
const char* reason_text(uint32_t reason) { return reason < SH_REASON_COUNT ? kReasons[reason].text : "?"; }

}  // namespace shunt
