// The log of a program: one line an event, as logfmt or JSON, to the journal or stderr. Libraries do not log; programs
// do.
#pragma once

#include <base/result.hpp>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shunt {

enum class LogFormat { logfmt, json };
enum class LogLevel { debug, info, warning, error };
enum class LogTarget { automatic, journal, stderr_stream };

struct LogSettings {
  LogFormat format = LogFormat::logfmt;
  LogLevel level = LogLevel::info;
  LogTarget target = LogTarget::automatic;  // the journal where stderr is connected to it
};

// As configurations name them.
inline std::vector<std::pair<std::string, LogFormat>> log_format_choices() {
  return {{"logfmt", LogFormat::logfmt}, {"json", LogFormat::json}};
}
inline std::vector<std::pair<std::string, LogLevel>> log_level_choices() {
  return {
      {"debug", LogLevel::debug}, {"info", LogLevel::info}, {"warning", LogLevel::warning}, {"error", LogLevel::error}};
}
inline std::vector<std::pair<std::string, LogTarget>> log_target_choices() {
  return {{"auto", LogTarget::automatic}, {"journal", LogTarget::journal}, {"stderr", LogTarget::stderr_stream}};
}

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

std::string utc_now();                             // "2025-01-02T03:04:05.678Z"
std::string logfmt_value(std::string_view value);  // quoted where it must be

}  // namespace shunt
