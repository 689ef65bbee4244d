#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <base/event_loop.hpp>

namespace shunt {

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  std::unique_ptr<EventLoop> loop(new EventLoop());
  loop->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_) return unexpected(errno, "epoll_create1");
  return loop;
}

Result<void> EventLoop::add(int fd, uint32_t events, Callback callback) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return unexpected(errno, "epoll_ctl");
  callbacks_[fd] = std::make_shared<Callback>(std::move(callback));
  return {};
}

void EventLoop::modify(int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::remove(int fd) {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  callbacks_.erase(fd);
}

Result<void> EventLoop::add_timer(std::chrono::milliseconds interval, std::function<void()> callback) {
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer) return unexpected(errno, "timerfd_create");
  itimerspec spec{};
  spec.it_interval.tv_sec = interval.count() / 1000;
  spec.it_interval.tv_nsec = interval.count() % 1000 * 1'000'000;
  spec.it_value = spec.it_interval;
  if (timerfd_settime(timer.get(), 0, &spec, nullptr) != 0) return unexpected(errno, "timerfd_settime");
  const int fd = timer.get();
  timers_.push_back(std::move(timer));
  return add(fd, EPOLLIN, [fd, callback = std::move(callback)](uint32_t) {
    uint64_t expirations = 0;
    if (::read(fd, &expirations, sizeof(expirations)) == sizeof(expirations)) callback();
  });
}

Result<void> EventLoop::run_once(int timeout_ms) {
  epoll_event events[64];
  const int count = epoll_wait(epoll_.get(), events, 64, timeout_ms);
  if (count < 0) {
    if (errno == EINTR) return {};
    return unexpected(errno, "epoll_wait");
  }
  for (int i = 0; i < count; i++) {
    // An earlier callback of this round may have removed it; the copy keeps a callback alive that removes itself.
    const auto found = callbacks_.find(events[i].data.fd);
    if (found == callbacks_.end()) continue;
    const std::shared_ptr<Callback> callback = found->second;
    (*callback)(events[i].events);
  }
  return {};
}

Result<void> EventLoop::run() {
  while (!stopped_) {
    auto turned = run_once(-1);
    if (!turned) return turned;
  }
  return {};
}

}  // namespace shunt
