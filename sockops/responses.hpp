// How requests were answered: what bpf/responses.bpf.h counts.
#pragma once

#include <bpf/abi/responses.h>

#include <base/result.hpp>
#include <vector>

namespace shunt {

struct ResponseRow {
  sh_response_key key{};
  sh_response_sum sum{};  // since the key was new
};

Result<std::vector<ResponseRow>> read_responses(int map);

// Takes out those under policies before this generation, in which nothing is counted any more.
void forget_responses(int map, uint32_t generation);

}  // namespace shunt
