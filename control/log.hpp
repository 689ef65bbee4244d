// The daemon's log: one line an event, as logfmt or JSON, to the journal or stderr. Libraries do not log; control/
// does.
#pragma once

#include <base/result.hpp>
#include <control/config.hpp>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace shunt {

using LogField = std::pair<std::string_view, std::string>;
using LogFields = std::initializer_list<LogField>;

// May be called again with other settings, as reload does.
void set_up_log(const LogSettings& settings);

void log_line(LogLevel level, std::string_view message, LogFields fields = {});

inline void log_debug(std::string_view message, LogFields fields = {}) { log_line(LogLevel::debug, message, fields); }
inline void log_info(std::string_view message, LogFields fields = {}) { log_line(LogLevel::info, message, fields); }
inline void log_warning(std::string_view message, LogFields fields = {}) {
  log_line(LogLevel::warning, message, fields);
}
inline void log_error(std::string_view message, LogFields fields = {}) { log_line(LogLevel::error, message, fields); }

// What failed, and what happens instead.
void log_failure(std::string_view message, const Error& error, std::string_view instead);

// One line without its end. `time` is left out where the journal keeps it.
std::string format_log_line(LogFormat format, LogLevel level, std::string_view time, std::string_view message,
                            LogFields fields);

}  // namespace shunt
