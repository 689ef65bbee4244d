// Flattens what was compiled into rows, as the kernel side keeps them.
#pragma once

#include <bpf/abi/policy_rows.hpp>
#include <policy/compiler.hpp>

namespace shunt::policy {

// The tables must outlive the rows.
PolicyRows rows_of(const Model& model, const Tables& tables);

}  // namespace shunt::policy
