#include <fallback-proxy/access_log.hpp>
#include <nlohmann/json.hpp>

namespace shunt::proxy {
namespace {

constexpr size_t kTextBytesMax = 1024;

std::string_view cut(std::string_view text) { return text.substr(0, kTextBytesMax); }

}  // namespace

std::string format_access(LogFormat format, std::string_view time, const AccessRecord& record) {
  const std::string_view numbers[] = {"status", "request_bytes", "response_bytes", "duration_us"};
  const uint64_t values[] = {static_cast<uint64_t>(record.status), record.request_bytes, record.response_bytes,
                             record.duration_us};
  const std::pair<std::string_view, std::string_view> texts[] = {{"time", time},
                                                                 {"client", record.client},
                                                                 {"listener", record.listener},
                                                                 {"from", record.from},
                                                                 {"to", record.to},
                                                                 {"method", record.method},
                                                                 {"host", record.host},
                                                                 {"path", record.path},
                                                                 {"verdict", record.verdict},
                                                                 {"reason", record.reason},
                                                                 {"rule", record.rule},
                                                                 {"judged", record.judged},
                                                                 {"mismatched_headers", record.mismatched},
                                                                 {"upstream", record.upstream}};
  if (format == LogFormat::json) {
    nlohmann::ordered_json line;
    for (const auto& [name, text] : texts) {
      if (!text.empty()) line[std::string(name)] = cut(text);
    }
    for (size_t i = 0; i < std::size(numbers); i++) line[std::string(numbers[i])] = values[i];
    return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  std::string line;
  for (const auto& [name, text] : texts) {
    if (!text.empty()) line += std::string(name) + "=" + logfmt_value(cut(text)) + " ";
  }
  for (size_t i = 0; i < std::size(numbers); i++)
    line += std::string(numbers[i]) + "=" + std::to_string(values[i]) + " ";
  line.back() = '\n';
  return line;
}

Result<void> AccessLog::open(const AccessLogSettings& settings) {
  sample_ = settings.sample;
  return lines_.open(settings.path, settings.format);
}

void AccessLog::write(const AccessRecord& record) {
  if (enabled()) lines_.write(format_access(lines_.format(), utc_now(), record));
}

}  // namespace shunt::proxy
