// Where a policy lies in the layout of policy.h: maps of the kernel, or rows in memory. Who reads it runs policy/core.
#ifndef SHUNT_ABI_POLICY_SOURCE_HPP
#define SHUNT_ABI_POLICY_SOURCE_HPP

#include <array>

#include "policy.h"

namespace shunt {

class PolicySource {
 public:
  virtual ~PolicySource() = default;
  virtual sh_u8 half() const = 0;
  virtual bool subject(const sh_policy_subject_key& key, sh_policy_subject& value) const = 0;
  virtual bool entry(const sh_policy_key& key, sh_policy_entry& value) const = 0;
  virtual sh_u16 first_port(sh_u16 port) const = 0;
  virtual bool judged(sh_u16 port) const = 0;
  virtual bool set(sh_u32 number, sh_policy_set& value) const = 0;
  virtual const struct sh_policy_block* block(sh_u32 number) const = 0;  // null: there is none
  virtual sh_policy_result result(sh_u32 index) const = 0;               // zeroes, which deny: there is none
  virtual sh_u32 identity_of(const std::array<sh_u8, SH_ADDR_BYTES>& address) const = 0;  // or SH_IDENTITY_WORLD
};

}  // namespace shunt

#endif
