#include <fcntl.h>

#include <chrono>
#include <ctime>
#include <fallback-proxy/access_log.hpp>
#include <nlohmann/json.hpp>

namespace shunt::proxy {
namespace {

constexpr size_t kLinesBytesMax = 1 << 20;
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

AccessLog::~AccessLog() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

Result<void> AccessLog::open(const AccessLogSettings& settings) {
  format_ = settings.format;
  sample_ = settings.sample;
  path_ = settings.path;
  if (path_.empty()) return {};
  if (path_ == "-") {
    fd_.reset(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
  } else {
    fd_.reset(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
  }
  if (!fd_)
    return unexpected(errno, "cannot write the access log " + path_, "create its folder for the user of the proxy");
  enabled_ = true;
  thread_ = std::thread([this] { run(); });
  return {};
}

void AccessLog::write(const AccessRecord& record) {
  if (!enabled_) return;
  const std::string line = format_access(format_, utc_now(), record);
  {
    const std::lock_guard lock(mutex_);
    if (lines_.size() + line.size() > kLinesBytesMax) {
      lost_++;
      lost_total_++;
      return;
    }
    lines_ += line;
  }
  changed_.notify_one();
}

void AccessLog::reopen() {
  const std::lock_guard lock(mutex_);
  reopen_ = true;
}

void AccessLog::run() {
  std::string lines;
  std::unique_lock lock(mutex_);
  while (!stop_ || !lines_.empty()) {
    changed_.wait(lock, [this] { return stop_ || !lines_.empty(); });
    lines.clear();
    lines.swap(lines_);
    const uint64_t lost = std::exchange(lost_, 0);
    if (std::exchange(reopen_, false) && path_ != "-") {
      UniqueFd fresh(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
      if (fresh) fd_ = std::move(fresh);
    }
    lock.unlock();
    if (lost != 0) {
      lines += format_ == LogFormat::json ? "{\"lost\":" + std::to_string(lost) + "}\n"
                                          : "lost=" + std::to_string(lost) + "\n";
    }
    size_t lost_now = 0;
    for (std::string_view rest = lines; !rest.empty();) {
      const ssize_t written = ::write(fd_.get(), rest.data(), rest.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) {
        lost_now = static_cast<size_t>(std::count(rest.begin(), rest.end(), '\n'));
        break;
      }
      rest.remove_prefix(static_cast<size_t>(written));
    }
    lock.lock();
    lost_ += lost_now;
    lost_total_ += lost_now;
  }
}

}  // namespace shunt::proxy
