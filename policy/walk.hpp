// Asks a policy in the layout of bpf/abi/policy.h, wherever it lies, by the code that the kernel side runs. For one
// source file of a program: policy/core has one view of the tables in each.
#pragma once

#include <bpf/abi/policy_source.hpp>
#include <optional>
#include <policy/compiler.hpp>
#include <string>
#include <string_view>

struct sh_policy_view {
  const shunt::PolicySource* source = nullptr;
  std::string_view request = {};
  mutable std::optional<sh_policy_key> found = {};  // of the entry that answered
};

static const struct sh_policy_block* sh_policy_block(const struct sh_policy_view* view, sh_u32 number) {
  return view->source->block(number);
}
static struct sh_policy_result sh_policy_result_at(const struct sh_policy_view* view, sh_u32 index) {
  return view->source->result(index);
}
static sh_u8 sh_policy_byte(const struct sh_policy_view* view, sh_u32 offset) {
  return offset < view->request.size() ? static_cast<sh_u8>(view->request[offset]) : 0;
}
static int sh_policy_find_subject(const struct sh_policy_view* view, const struct sh_policy_subject_key* key,
                                  struct sh_policy_subject* subject) {
  return view->source->subject(*key, *subject);
}
static int sh_policy_find_entry(const struct sh_policy_view* view, const struct sh_policy_key* key,
                                struct sh_policy_entry* entry) {
  if (!view->source->entry(*key, *entry)) return 0;
  view->found = *key;
  return 1;
}
static sh_u16 sh_policy_first_port(const struct sh_policy_view* view, sh_u8, sh_u16 port) {
  return view->source->first_port(port);
}

#include <policy/core/both.h>
#include <policy/core/lookup.h>
#include <policy/core/request.h>

#include <policy/text_request.hpp>

namespace shunt::policy {

// What one direction says about a connection.
struct Asked {
  sh_policy_entry entry{};
  std::optional<sh_policy_key> key;  // of the entry; absent: there is none
};

inline Asked ask(const PolicySource& source, sh_policy_direction direction, sh_u32 subject, sh_u32 peer, sh_u16 port) {
  const sh_policy_view view{&source};
  const sh_policy_entry entry = sh_policy_ask(&view, source.half(), static_cast<sh_u8>(direction), subject, peer, port);
  return {entry, view.found};
}

// What a set says about a head that was read from `bytes`. A set that is not there: punted, as in the kernel.
inline sh_policy_result judge(const PolicySource& source, sh_u32 number, const l7_http1& head, std::string_view bytes) {
  const sh_policy_view view{&source, bytes};
  sh_policy_set set{};
  if (source.set(number, set)) return sh_policy_http1(&view, &set, &head);
  return {0, SH_POLICY_NO_RULE, SH_POLICY_PUNT, SH_POLICY_R_TABLES};
}

// Likewise, on a Redis command.
inline sh_policy_result judge(const PolicySource& source, sh_u32 number, const l7_resp& command,
                              std::string_view bytes) {
  const sh_policy_view view{&source, bytes};
  sh_policy_set set{};
  if (source.set(number, set)) return sh_policy_resp(&view, &set, &command);
  return {0, SH_POLICY_NO_RULE, SH_POLICY_PUNT, SH_POLICY_R_TABLES};
}

// The same for the parts of a request that no parser has seen.
inline sh_policy_result judge(const PolicySource& source, sh_u32 number, const HttpRequest& request) {
  sh_policy_set set{};
  if (!source.set(number, set)) return {0, SH_POLICY_NO_RULE, SH_POLICY_PUNT, SH_POLICY_R_TABLES};
  return match_text({&source}, set, request, false);
}

}  // namespace shunt::policy
