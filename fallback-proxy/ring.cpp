#include <sys/socket.h>

#include <cstdlib>
#include <fallback-proxy/ring.hpp>

namespace shunt::proxy {

Ring::~Ring() {
  if (open_) io_uring_queue_exit(&ring_);
}

Result<void> Ring::open(unsigned entries) {
  // From the best to what every kernel knows; Linux 6.1 has all three.
  const unsigned kinds[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_COOP_TASKRUN, 0};
  int error = 0;
  for (const unsigned flags : kinds) {
    error = io_uring_queue_init(entries, &ring_, flags);
    if (error == 0) {
      open_ = true;
      return {};
    }
    if (error != -EINVAL) break;
  }
  return unexpected(error, "cannot make an io_uring",
                    "see /proc/sys/kernel/io_uring_disabled and the seccomp filter of the service");
}

io_uring_sqe* Ring::next(Operation* operation) {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  while (sqe == nullptr) {
    // Fails only for want of memory in the kernel, which passes.
    io_uring_submit(&ring_);
    sqe = io_uring_get_sqe(&ring_);
  }
  io_uring_sqe_set_data(sqe, operation);
  if (operation != nullptr) {
    if (operation->pending_) abort();
    operation->pending_ = true;
  }
  return sqe;
}

void Ring::accept(Operation& operation, int socket, sockaddr* address, socklen_t* length) {
  io_uring_sqe* sqe = next(&operation);
  io_uring_prep_accept(sqe, socket, address, length, SOCK_CLOEXEC);
  io_uring_sqe_set_data(sqe, &operation);
}

void Ring::connect(Operation& operation, int socket, const sockaddr* address, socklen_t length) {
  io_uring_sqe* sqe = next(&operation);
  io_uring_prep_connect(sqe, socket, address, length);
  io_uring_sqe_set_data(sqe, &operation);
}

void Ring::receive(Operation& operation, int socket, void* data, size_t bytes) {
  io_uring_sqe* sqe = next(&operation);
  io_uring_prep_recv(sqe, socket, data, bytes, 0);
  io_uring_sqe_set_data(sqe, &operation);
}

void Ring::receive_later(Operation& operation, int socket, void* data, size_t bytes) {
  io_uring_sqe* sqe = next(&operation);
  io_uring_prep_recv(sqe, socket, data, bytes, 0);
  sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
  io_uring_sqe_set_data(sqe, &operation);
}

void Ring::send(Operation& operation, int socket, const void* data, size_t bytes) {
  io_uring_sqe* sqe = next(&operation);
  io_uring_prep_send(sqe, socket, data, bytes, MSG_NOSIGNAL);
  io_uring_sqe_set_data(sqe, &operation);
}

void Ring::read(Operation& operation, int fd, void* data, size_t bytes) {
  io_uring_sqe* sqe = next(&operation);
  io_uring_prep_read(sqe, fd, data, static_cast<unsigned>(bytes), 0);
  io_uring_sqe_set_data(sqe, &operation);
}

void Ring::cancel(Operation& operation) {
  if (!operation.pending()) return;
  io_uring_sqe* sqe = next(nullptr);
  io_uring_prep_cancel(sqe, &operation, 0);
  io_uring_sqe_set_data(sqe, nullptr);
}

Result<void> Ring::run(std::chrono::microseconds timeout) {
  __kernel_timespec wait{timeout.count() / 1'000'000, timeout.count() % 1'000'000 * 1000};
  io_uring_cqe* cqe = nullptr;
  const int result = io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &wait, nullptr);
  if (result < 0 && result != -ETIME && result != -EINTR && result != -EAGAIN && result != -EBUSY)
    return unexpected(result, "io_uring_enter");
  // One at a time: what is called back may fill and submit the ring.
  while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
    auto* const operation = static_cast<Operation*>(io_uring_cqe_get_data(cqe));
    const int outcome = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    if (operation == nullptr) continue;
    operation->pending_ = false;
    operation->completed(outcome);
  }
  return {};
}

}  // namespace shunt::proxy
