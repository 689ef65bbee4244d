// One io_uring, for one thread. Operations are objects of the caller; their completion calls back.
#pragma once

#include <liburing.h>

#include <base/result.hpp>
#include <chrono>

namespace shunt::proxy {

// Belongs to whoever waits for its completion, and must live until then. One at a time.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual void completed(int result) = 0;  // as the system call, with -errno

  bool pending() const { return pending_; }

 private:
  friend class Ring;
  bool pending_ = false;
};

class Ring {
 public:
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring();

  // By the thread that uses it.
  Result<void> open(unsigned entries);

  void accept(Operation& operation, int socket, sockaddr* address, socklen_t* length);
  void connect(Operation& operation, int socket, const sockaddr* address, socklen_t length);
  void receive(Operation& operation, int socket, void* data, size_t bytes);
  void receive_later(Operation& operation, int socket, void* data, size_t bytes);  // nothing will be there yet
  void send(Operation& operation, int socket, const void* data, size_t bytes);
  void read(Operation& operation, int fd, void* data, size_t bytes);
  void cancel(Operation& operation);  // it completes nevertheless

  // Submits what was begun, waits for a completion or `timeout`, and calls back for all there are.
  Result<void> run(std::chrono::microseconds timeout);

 private:
  io_uring_sqe* next(Operation* operation);

  io_uring ring_{};
  bool open_ = false;
};

}  // namespace shunt::proxy
