// The one list of exit codes of shunt and shuntd: it makes the enum, the table in the manual and the CLI's --help.
#pragma once

#define SHUNT_EXIT_CODES(X)                                                                                            \
  X(0, ok, "success")                                                                                                  \
  X(1, error, "something failed; the message says what, and what to do")                                               \
  X(2, usage, "wrong usage, or an invalid configuration")                                                              \
  X(3, sockets_kept,                                                                                                   \
    "off or cleanup is done but for sockets whose reader never reads: they keep their programs until they close, and " \
    "are listed")                                                                                                      \
  X(4, not_running, "shuntd is not running, and the command needs it")                                                 \
  X(5, kernel_unusable, "this kernel cannot run the shortcut; `shunt check` names what is missing")                    \
  X(6, permission, "not permitted: become root")                                                                       \
  X(7, denied, "policy explain and trace: denied")                                                                     \
  X(8, punted, "policy explain and trace: the proxy decides")

namespace shunt {

enum class ExitCode : int {
#define SHUNT_EXIT_ENUM(number, name, text) name = number,
  SHUNT_EXIT_CODES(SHUNT_EXIT_ENUM)
#undef SHUNT_EXIT_ENUM
};

}  // namespace shunt
