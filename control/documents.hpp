// What shunt knows, as JSON documents: what the control socket carries, `-o json` prints and the tables are drawn from.
// One form, whether the daemon or the pins were asked. No kernel address is in any of them.
#pragma once

#include <bpf/abi/shunt.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <sockops/engine.hpp>
#include <sockops/probe.hpp>
#include <string>
#include <vector>

namespace shunt {

using Json = nlohmann::ordered_json;

// Bytes that are not UTF-8 (a program's name may hold anything) are replaced.
std::string dump(const Json& document, int indent = -1);

// "2025-01-02T03:04:05Z"; empty for 0, which nobody has told.
std::string expiry_text(uint64_t seconds_since_1970);

const char* state_name(uint32_t state);        // enum sh_state
const char* mode_name(uint32_t mode);          // enum sh_mode
const char* event_name(uint32_t kind);         // enum sh_event_kind
const char* profile_kind_name(uint32_t kind);  // enum sh_profile_kind
constexpr uint32_t kStateCount = SH_STATE_STOPPED + 1;
constexpr uint32_t kEventKindCount = SH_EV_LISTENS + 1;  // kinds count from 1
constexpr uint32_t kProfileKindCount = SH_PROFILE_CORKED + 1;

using SharedRows = std::shared_ptr<const std::vector<Row>>;

// Everything at one moment. The rows are shared with the clients they are streamed to.
struct Snapshot {
  Status status;
  Counters counters;
  SharedRows rows = std::make_shared<const std::vector<Row>>();
  std::vector<ProfileRow> profiles;
};

// The kernel's counters hold what closed sockets did; this adds the open ones.
Counters with_open_sockets(const Counters& counters, const std::vector<Row>& rows);

Json row_document(const Row& row);
Json event_document(const sh_event& event);
Json why_document(const WhyRow& row);
Json probe_document(const ProbeReport& report);
Json drain_document(const DrainReport& report);
Json status_document(const Snapshot& snapshot);

// The end of the text that may be cut by its field's size and not terminated.
std::string program_name(const char (&name)[SH_PROGRAM_NAME_BYTES]);

}  // namespace shunt
