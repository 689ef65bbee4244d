#include <fcntl.h>

#include <algorithm>
#include <base/line_log.hpp>
#include <utility>

namespace shunt {
namespace {

constexpr size_t kLinesBytesMax = 1 << 20;

}  // namespace

LineLog::~LineLog() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

Result<void> LineLog::open(const std::string& path, LogFormat format) {
  format_ = format;
  path_ = path;
  if (path_.empty()) return {};
  if (path_ == "-") {
    fd_.reset(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
  } else {
    fd_.reset(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
  }
  if (!fd_) return unexpected(errno, "cannot write " + path_, "create its folder for the user of the program");
  enabled_ = true;
  thread_ = std::thread([this] { run(); });
  return {};
}

void LineLog::write(const std::string& line) {
  if (!enabled_) return;
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

void LineLog::reopen() {
  const std::lock_guard lock(mutex_);
  reopen_ = true;
}

void LineLog::run() {
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

}  // namespace shunt
