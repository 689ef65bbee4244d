// Lines for a file. The threads of a program hand theirs over without waiting; what a slow disk has no room for is
// dropped, and the next line says how many were lost.
#pragma once

#include <atomic>
#include <base/log.hpp>
#include <base/unique_fd.hpp>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace shunt {

class LineLog {
 public:
  LineLog() = default;
  LineLog(const LineLog&) = delete;
  LineLog& operator=(const LineLog&) = delete;
  ~LineLog();

  // `path`: empty for none, "-" for standard output.
  Result<void> open(const std::string& path, LogFormat format);
  bool enabled() const { return enabled_; }
  LogFormat format() const { return format_; }
  void write(const std::string& line);  // with its end
  void reopen();                        // after its file was moved away
  uint64_t lost() const { return lost_total_; }

 private:
  void run();

  bool enabled_ = false;
  LogFormat format_ = LogFormat::logfmt;
  std::string path_;
  std::atomic<uint64_t> lost_total_{0};

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string lines_;
  uint64_t lost_ = 0;
  bool stop_ = false;
  bool reopen_ = false;
  UniqueFd fd_;
  std::thread thread_;
};

}  // namespace shunt
