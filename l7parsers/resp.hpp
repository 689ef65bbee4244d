// Redis commands as views of the caller's bytes.
#pragma once

#include <l7parsers/core/resp.h>

#include <l7parsers/view.hpp>
#include <string>

namespace shunt::l7 {

// Views refer to the bytes of the last parse(), which must live as long. They are whole only when the verdict is
// L7_SIMPLE.
class RespCommand {
 public:
  RespCommand() { l7_resp_begin(&command_); }

  // Judges the command that `bytes` begin with. While INCOMPLETE: again with the same bytes and more.
  l7_verdict parse(std::string_view bytes) {
    bytes_ = bytes;
    const l7_input input = input_over(bytes);
    l7_resp_parse(&command_, &input);
    return command_.out.verdict;
  }

  const l7_outcome& outcome() const { return command_.out; }
  const l7_resp& raw() const { return command_; }

  std::string_view name() const { return slice(bytes_, command_.name); }  // in the case in which it came
  size_t key_count() const { return command_.key_count; }
  std::string_view key(size_t index) const { return slice(bytes_, command_.keys[index]); }

 private:
  l7_resp command_;
  std::string_view bytes_;
};

// The name of command number `index` of the table, in capitals.
constexpr std::string_view resp_command_name(size_t index) {
  constexpr std::string_view kNames[] = {
#define L7_COMMAND_NAME(name, first, last, step, reason) name,
      L7_RESP_COMMANDS(L7_COMMAND_NAME)
#undef L7_COMMAND_NAME
  };
  return kNames[index];
}

// Its number in the table, whatever the case of `name`; -1: it is not there.
inline int resp_command(std::string_view name) {
  RespCommand command;
  const std::string bytes = "*1\r\n$" + std::to_string(name.size()) + "\r\n" + std::string(name) + "\r\n";
  command.parse(bytes);
  const int number = command.raw().command;
  return command.outcome().unit_bytes != 0 && number < L7_RESP_COMMAND_COUNT ? number : -1;
}

// Does the parser know where the keys of the command are?
inline bool resp_has_keys(std::string_view name) {
  const int number = resp_command(name);
  return number >= 0 && l7_resp_commands[number].first != 0;
}

}  // namespace shunt::l7
