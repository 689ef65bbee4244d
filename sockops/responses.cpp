#include "sockops/responses.hpp"

#include <bpf/bpf.h>

#include <algorithm>
#include <sockops/map_walk.hpp>

namespace shunt {

Result<std::vector<ResponseRow>> read_responses(int map) {
  std::vector<ResponseRow> rows;
  const int error = for_each_key<sh_response_key>(map, [&](const sh_response_key& key) {
    ResponseRow row;
    row.key = key;
    if (bpf_map_lookup_elem(map, &key, &row.sum) == 0) rows.push_back(row);
  });
  if (error != 0) return unexpected(error, "cannot read how requests were answered");
  return rows;
}

void forget_responses(int map, uint32_t generation) {
  const auto rows = read_responses(map);
  if (!rows) return;  // they stay until the next time
  for (const ResponseRow& row : *rows)
    if (static_cast<int32_t>(row.key.generation - generation) < 0) bpf_map_delete_elem(map, &row.key);
}

}  // namespace shunt
