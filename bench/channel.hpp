// The ways of bytes between two processes that the cells compare: TCP, Unix stream sockets, and a ring in shared
// memory.
#pragma once

#include <netinet/in.h>

#include <atomic>
#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace shunt::bench {

// One end of a bidirectional byte stream. Calls block; failures end the worker's run with the error.
class Channel {
 public:
  virtual ~Channel() = default;
  virtual Result<void> send_all(const void* data, size_t bytes) = 0;
  // What is there, at most `bytes`; 0 at the end of the stream.
  virtual Result<size_t> receive_some(void* data, size_t bytes) = 0;
  virtual Result<void> finish_sending() = 0;
  virtual int fd() const { return -1; }

  Result<void> receive_all(void* data, size_t bytes);
};

class SocketChannel : public Channel {
 public:
  explicit SocketChannel(UniqueFd socket) : socket_(std::move(socket)) {}
  Result<void> send_all(const void* data, size_t bytes) override;
  Result<size_t> receive_some(void* data, size_t bytes) override;
  Result<void> finish_sending() override;
  int fd() const override { return socket_.get(); }

 private:
  UniqueFd socket_;
};

// One direction of the shared-memory limit: one writer, one reader, futexes only where one must wait.
struct ShmRing {
  static constexpr uint32_t kBytes = 1u << 20;

  alignas(64) std::atomic<uint64_t> head;  // read so far
  alignas(64) std::atomic<uint64_t> tail;  // written so far
  alignas(64) std::atomic<uint32_t> data_event;
  std::atomic<uint32_t> reader_waits;
  std::atomic<uint32_t> closed;
  alignas(64) std::atomic<uint32_t> space_event;
  std::atomic<uint32_t> writer_waits;
  alignas(64) unsigned char data[kBytes];

  void write(const void* source, size_t bytes, bool spin);
  size_t read(void* target, size_t bytes, bool spin);
  void close();
};

class ShmChannel : public Channel {
 public:
  // `spin`: look a while before sleeping, for ends on different CPUs.
  ShmChannel(ShmRing* out, ShmRing* in, bool spin) : out_(out), in_(in), spin_(spin) {}
  Result<void> send_all(const void* data, size_t bytes) override;
  Result<size_t> receive_some(void* data, size_t bytes) override;
  Result<void> finish_sending() override;

 private:
  ShmRing* out_;
  ShmRing* in_;
  bool spin_;
};

// Where a run's server listens: a TCP port, or (port 0) an abstract Unix address made from `unix_id`.
struct SocketAddress {
  uint16_t port = 0;
  uint64_t unix_id = 0;
  uint32_t ip = INADDR_LOOPBACK;
};

Result<UniqueFd> listen_at(const SocketAddress& address);
Result<UniqueFd> accept_one(int listener);
Result<UniqueFd> connect_to(const SocketAddress& address);
Result<void> set_no_delay(int fd);
// A TCP port on 127.0.0.1 below the ephemeral range that nobody uses now.
Result<uint16_t> free_port();

}  // namespace shunt::bench
