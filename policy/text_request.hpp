// A request that no parser has seen, given to the matcher part by part. For a source file that has said what
// policy/core/automaton.h asks for, with `std::string_view request` in its view. Static: each such file has a view of
// its own, of the same name.
#pragma once

#include <policy/core/automaton.h>

#include <policy/compiler.hpp>
#include <string>

namespace shunt::policy {

// A path that is known to be in its normal form is text like the others.
static sh_policy_result match_text(sh_policy_view view, const sh_policy_set& set, const HttpRequest& request,
                                   bool path_is_normal) {
  std::string bytes;
  const auto put = [&](const std::string& text) {
    bytes += text;
    view.request = bytes;
    return static_cast<sh_u32>(bytes.size() - text.size());
  };
  const auto length = [](const std::string& text) { return static_cast<sh_u32>(text.size()); };
  sh_policy_run run;
  sh_policy_begin(&run, &view, &set);
  sh_policy_method(&run, put(request.method), length(request.method));
  sh_policy_text(&run, put(request.path), length(request.path), path_is_normal ? 0 : 1);
  sh_policy_host(&run, put(request.host), length(request.host));
  for (const auto& [name, value] : request.headers) {
    const sh_u32 name_at = put(name);
    sh_policy_header(&run, name_at, length(name), put(value), length(value));
  }
  return sh_policy_end(&run);
}

}  // namespace shunt::policy
