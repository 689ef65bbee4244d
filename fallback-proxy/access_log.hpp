// One line a request.
#pragma once

#include <atomic>
#include <base/line_log.hpp>
#include <fallback-proxy/config.hpp>
#include <string>
#include <string_view>

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
  std::string mismatched;   // headers that were not as rules say, which say what to do then
  std::string upstream;
  uint64_t request_bytes = 0;  // of the bodies
  uint64_t response_bytes = 0;
  uint64_t duration_us = 0;
};

// One line with its end. Text of clients is cut where it is long, and quoted.
std::string format_access(LogFormat format, std::string_view time, const AccessRecord& record);

class AccessLog {
 public:
  Result<void> open(const AccessLogSettings& settings);
  // Should a forwarded request be written?
  bool sampled() { return enabled() && count_.fetch_add(1, std::memory_order_relaxed) % sample_ == 0; }
  bool enabled() const { return lines_.enabled(); }
  void write(const AccessRecord& record);
  void reopen() { lines_.reopen(); }  // after its file was moved away
  uint64_t lost() const { return lines_.lost(); }

 private:
  uint64_t sample_ = 1;
  std::atomic<uint64_t> count_{0};
  LineLog lines_;
};

}  // namespace shunt::proxy
