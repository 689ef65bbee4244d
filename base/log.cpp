#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/systemd_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <base/log.hpp>
#include <base/printable.hpp>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <nlohmann/json.hpp>

namespace shunt {
namespace {

struct LogState {
  LogFormat format = LogFormat::logfmt;
  bool journal = false;
  std::shared_ptr<spdlog::logger> logger;
};

// Set up anew while others write: each line is written with one whole state.
struct SharedLogState {
  std::mutex mutex;
  LogState state;
};

SharedLogState& shared_log_state() {
  static SharedLogState shared;
  return shared;
}

LogState log_state() {
  SharedLogState& shared = shared_log_state();
  const std::lock_guard lock(shared.mutex);
  return shared.state;
}

constexpr const char* kLevelNames[] = {"debug", "info", "warning", "error"};
constexpr spdlog::level::level_enum kSpdlogLevels[] = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                                       spdlog::level::err};

// systemd names the device and inode of the journal's stream in JOURNAL_STREAM; stderr may have been redirected since.
bool stderr_is_journal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  struct stat status {};
  if (stream == nullptr || fstat(STDERR_FILENO, &status) != 0) return false;
  return std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino) == stream;
}

std::shared_ptr<spdlog::logger> make_logger(bool journal) {
  if (journal)
    return std::make_shared<spdlog::logger>(
        program_invocation_short_name, std::make_shared<spdlog::sinks::systemd_sink_mt>(program_invocation_short_name));
  return std::make_shared<spdlog::logger>(program_invocation_short_name,
                                          std::make_shared<spdlog::sinks::stderr_sink_mt>());
}

}  // namespace

std::string utc_now() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[40];
  const size_t length = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + length, sizeof(text) - length, ".%03dZ", static_cast<int>(ms));
  return text;
}

std::string logfmt_value(std::string_view value) {
  const bool plain = !value.empty() && value.find_first_of(" \"=\\") == std::string_view::npos &&
                     std::none_of(value.begin(), value.end(), is_control_character);
  if (plain) return std::string(value);
  std::string text = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') text += '\\';
    if (c == '\n') {
      text += "\\n";
    } else {
      text += is_control_character(c) ? '?' : c;
    }
  }
  return text + "\"";
}

void set_up_log(const LogSettings& settings) {
  LogState state;
  state.format = settings.format;
  state.journal =
      settings.target == LogTarget::journal || (settings.target == LogTarget::automatic && stderr_is_journal());
  state.logger = make_logger(state.journal);
  state.logger->set_pattern("%v");
  state.logger->set_level(kSpdlogLevels[static_cast<int>(settings.level)]);
  state.logger->flush_on(spdlog::level::debug);
  SharedLogState& shared = shared_log_state();
  const std::lock_guard lock(shared.mutex);
  shared.state = std::move(state);
}

void log_line(LogLevel level, std::string_view message, LogFields fields) {
  LogState state = log_state();
  if (!state.logger) {
    set_up_log(LogSettings{});
    state = log_state();
  }
  const auto spdlog_level = kSpdlogLevels[static_cast<int>(level)];
  if (!state.logger->should_log(spdlog_level)) return;
  const std::string time = state.journal ? std::string() : utc_now();
  state.logger->log(spdlog_level, spdlog::string_view_t(format_log_line(state.format, level, time, message, fields)));
}

void log_failure(std::string_view message, const Error& error, std::string_view instead) {
  log_line(LogLevel::error, message,
           {{"error", error.message}, {"remedy", error.remedy}, {"instead", std::string(instead)}});
}

std::string format_log_line(LogFormat format, LogLevel level, std::string_view time, std::string_view message,
                            LogFields fields) {
  const char* level_name = kLevelNames[static_cast<int>(level)];
  if (format == LogFormat::json) {
    nlohmann::ordered_json line;
    if (!time.empty()) line["time"] = time;
    line["level"] = level_name;
    line["msg"] = message;
    for (const auto& [key, value] : fields) {
      if (!value.empty()) line[std::string(key)] = value;
    }
    return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  std::string line = time.empty() ? "" : "time=" + std::string(time) + " ";
  line += std::string("level=") + level_name + " msg=" + logfmt_value(message);
  for (const auto& [key, value] : fields) {
    if (!value.empty()) line += " " + std::string(key) + "=" + logfmt_value(value);
  }
  return line;
}

}  // namespace shunt
