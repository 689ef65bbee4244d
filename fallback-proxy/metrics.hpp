// Serves the metrics of shunt-proxy from a thread of its own: a scrape waits for no request, and no request for it.
#pragma once

#include <prometheus/metric_family.h>

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <fallback-proxy/counters.hpp>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace shunt::proxy {

std::vector<prometheus::MetricFamily> proxy_metrics(const Counters& counters, uint64_t log_lines_lost);

class MetricsThread {
 public:
  // `page` is called from the thread.
  explicit MetricsThread(std::function<std::string()> page) : page_(std::move(page)) {}
  ~MetricsThread() { stop(); }
  MetricsThread(const MetricsThread&) = delete;
  MetricsThread& operator=(const MetricsThread&) = delete;

  Result<void> start(const std::string& address);  // ADDRESS:PORT
  void stop();

 private:
  std::function<std::string()> page_;
  UniqueFd wake_;  // eventfd
  std::thread thread_;
};

}  // namespace shunt::proxy
