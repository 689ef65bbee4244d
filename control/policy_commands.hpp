// `shunt policy validate` and `explain`: what documents mean, from files alone; no daemon is asked.
#pragma once

#include <control/exit_codes.hpp>
#include <policy/explain.hpp>
#include <string>
#include <vector>

namespace shunt {

// Shows what is wrong with documents.
ExitCode policy_problems(const std::vector<Problem>& problems, bool json);

ExitCode policy_validate(const std::vector<std::string>& files, bool json);

// Adds what the command line says of headers, as "Name: value"; the error says which one is none.
Result<void> add_headers(const std::vector<std::string>& headers, std::optional<policy::HttpRequest>& request);

// `request` without a method: the connection alone. Headers as "Name: value".
ExitCode policy_explain(const std::vector<std::string>& files, policy::Question question,
                        const std::vector<std::string>& headers, bool json);

}  // namespace shunt
