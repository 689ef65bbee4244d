// One line a request. The threads of the proxy hand their lines over without waiting; what a slow disk has no room for
// is dropped, and the next line says how many were lost.
#pragma once

#include <atomic>
#include <base/unique_fd.hpp>
#include <condition_variable>
#include <fallback-proxy/config.hpp>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace shunt::proxy {

struct AccessRecord {
  std::string client;  // ADDRESS:PORT
  std::string_view listener;
  std::string_view from, to;  // identities
  std::string method, host, path;
  int status = 0;
  std::string_view verdict;  // forwarded, denied, refused or failed
  std::string_view reason;   // a policy's, or why the request or its server failed
  std::string rule;
  std::string_view judged;  // simple: as the kernel does; else why not
  std::string upstream;
  uint64_t request_bytes = 0;  // of the bodies
  uint64_t response_bytes = 0;
  uint64_t duration_us = 0;
};

// One line with its end. Text of clients is cut where it is long, and quoted.
std::string format_access(LogFormat format, std::string_view time, const AccessRecord& record);

class AccessLog {
 public:
  ~AccessLog();

  Result<void> open(const AccessLogSettings& settings);
  // Should a forwarded request be written?
  bool sampled() { return enabled_ && count_.fetch_add(1, std::memory_order_relaxed) % sample_ == 0; }
  bool enabled() const { return enabled_; }
  void write(const AccessRecord& record);
  void reopen();  // after its file was moved away
  uint64_t lost() const { return lost_total_; }

 private:
  void run();

  bool enabled_ = false;
  uint64_t sample_ = 1;
  LogFormat format_ = LogFormat::logfmt;
  std::string path_;
  std::atomic<uint64_t> count_{0};
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

}  // namespace shunt::proxy
