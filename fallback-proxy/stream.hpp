// A connected socket with a buffer for each direction. At most one receive and one send are under way; what came and
// what happened is there for its owner to look at, who is told that something did.
#pragma once

#include <base/sockets.hpp>
#include <fallback-proxy/buffer.hpp>
#include <fallback-proxy/config.hpp>
#include <fallback-proxy/ring.hpp>

namespace shunt::proxy {

inline constexpr size_t kBufferBytes = 16 << 10;

class Stream;

class StreamOwner {
 public:
  virtual ~StreamOwner() = default;
  virtual void stream_changed() = 0;
};

// Where streams go back when nobody owns them and the kernel has nothing of theirs.
class StreamHome {
 public:
  virtual ~StreamHome() = default;
  virtual void stream_free(Stream& stream) = 0;
  virtual Ring& ring() = 0;
};

class Stream {
 public:
  explicit Stream(StreamHome& home) : home_(home), receive_(*this), send_(*this), connect_(*this) {}

  void open(UniqueFd fd, StreamOwner& owner);                          // a connected socket
  Result<void> connect(const Endpoint& endpoint, StreamOwner& owner);  // makes one

  // The owner lets go of it. With `reset` the other end sees RST, and not an end.
  void close(bool reset = false);

  bool connecting() const { return connect_.pending(); }
  bool connected() const { return connected_; }
  int socket() const { return fd_.get(); }
  int connect_error() const { return connect_error_; }
  bool ended() const { return ended_; }  // the other end sends no more; `in` may still hold bytes
  bool receive_failed() const { return receive_failed_; }
  bool send_failed() const { return send_failed_; }
  bool sending() const { return send_.pending(); }
  bool flushed() const { return out.empty() && !send_.pending(); }
  uint64_t sent_bytes() const { return sent_bytes_; }
  uint64_t received_bytes() const { return received_bytes_; }

  // Receives if there is room for it and nothing is under way.
  void receive();
  // Sends what stands in `out`.
  void flush();
  void shut_down_sending();

  // Room for `bytes` more in `out`; false while the kernel has a part of it.
  bool reserve_out(size_t bytes);

  Buffer in{kBufferBytes};
  Buffer out{kBufferBytes};

 private:
  struct Receive : Operation {
    explicit Receive(Stream& stream) : stream(stream) {}
    void completed(int result) override { stream.received(result); }
    Stream& stream;
  };
  struct Send : Operation {
    explicit Send(Stream& stream) : stream(stream) {}
    void completed(int result) override { stream.sent(result); }
    Stream& stream;
  };
  struct Connect : Operation {
    explicit Connect(Stream& stream) : stream(stream) {}
    void completed(int result) override { stream.connect_done(result); }
    Stream& stream;
  };

  void received(int result);
  void sent(int result);
  void connect_done(int result);
  void changed();

  StreamHome& home_;
  StreamOwner* owner_ = nullptr;
  UniqueFd fd_;
  Receive receive_;
  Send send_;
  Connect connect_;
  sockaddr_in6 address_{};
  bool connected_ = false;
  int connect_error_ = 0;
  bool ended_ = false;
  bool receive_failed_ = false;
  bool send_failed_ = false;
  uint64_t sent_bytes_ = 0;
  uint64_t received_bytes_ = 0;
};

}  // namespace shunt::proxy
