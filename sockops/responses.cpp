#include "sockops/responses.hpp"

#include <bpf/bpf.h>

#include <algorithm>

namespace shunt {

Result<std::vector<ResponseRow>> read_responses(int map) {
  std::vector<ResponseRow> rows;
  sh_response_key key = {}, next = {};
  for (int more = bpf_map_get_next_key(map, nullptr, &next); more == 0; more = bpf_map_get_next_key(map, &key, &next)) {
    key = next;
    ResponseRow row;
    row.key = key;
    if (bpf_map_lookup_elem(map, &key, &row.sum) == 0) rows.push_back(row);
    if (rows.size() >= SH_RESPONSES_MAX) break;  // the map changes under the walk
  }
  if (rows.empty() && errno != ENOENT) return unexpected(errno, "cannot read how requests were answered");
  return rows;
}

void forget_responses(int map, uint32_t generation) {
  const auto rows = read_responses(map);
  if (!rows) return;  // they stay until the next time
  for (const ResponseRow& row : *rows)
    if (static_cast<int32_t>(row.key.generation - generation) < 0) bpf_map_delete_elem(map, &row.key);
}

}  // namespace shunt
