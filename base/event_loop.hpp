// One thread, one epoll: descriptors and timers with their callbacks.
#pragma once

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

namespace shunt {

class EventLoop {
 public:
  using Callback = std::function<void(uint32_t events)>;

  static Result<std::unique_ptr<EventLoop>> create();

  // The descriptor stays the caller's, who removes it before closing it. A callback may add and remove any descriptor.
  Result<void> add(int fd, uint32_t events, Callback callback);
  void modify(int fd, uint32_t events);
  void remove(int fd);

  // Every `interval`, until the loop ends.
  Result<void> add_timer(std::chrono::milliseconds interval, std::function<void()> callback);

  Result<void> run();  // until stop()
  void stop() { stopped_ = true; }
  Result<void> run_once(int timeout_ms);

 private:
  EventLoop() = default;

  UniqueFd epoll_;
  std::unordered_map<int, std::shared_ptr<Callback>> callbacks_;
  std::vector<UniqueFd> timers_;
  bool stopped_ = false;
};

}  // namespace shunt
