// Programs whose threads each serve connections.
#pragma once

#include <algorithm>
#include <base/result.hpp>
#include <csignal>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace shunt {

// What such a program listens to: to end, and to read its files again. Blocked before the first thread starts.
inline sigset_t service_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  return set;
}

// `configured`: 0: as many as CPUs.
inline uint64_t thread_count(uint64_t configured) {
  return std::max<uint64_t>(configured != 0 ? configured : std::thread::hardware_concurrency(), 1);
}

// Makes and starts so many; if one does not start, those that did are stopped, and the error is its own.
template <typename Worker, typename Make>
Result<std::vector<std::unique_ptr<Worker>>> start_workers(uint64_t count, const Make& make) {
  std::vector<std::unique_ptr<Worker>> workers;
  for (uint64_t i = 0; i < count; i++) {
    auto worker = make();
    if (auto started = worker->start(); !started) {
      for (const auto& other : workers) other->stop();
      return unexpected(started.error());
    }
    workers.push_back(std::move(worker));
  }
  return workers;
}

}  // namespace shunt
