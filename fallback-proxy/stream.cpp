#include <netinet/tcp.h>
#include <sys/socket.h>

#include <fallback-proxy/stream.hpp>

namespace shunt::proxy {

void Stream::open(UniqueFd fd, StreamOwner& owner) {
  const int yes = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  fd_ = std::move(fd);
  owner_ = &owner;
  connected_ = true;
}

Result<void> Stream::connect(const Endpoint& endpoint, StreamOwner& owner) {
  const socklen_t length = to_sockaddr(endpoint, address_);
  UniqueFd fd(::socket(address_.sin6_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return unexpected(errno, "cannot make a socket");
  open(std::move(fd), owner);
  connected_ = false;
  home_.ring().connect(connect_, fd_.get(), reinterpret_cast<const sockaddr*>(&address_), length);
  return {};
}

void Stream::close(bool reset) {
  owner_ = nullptr;
  if (reset) {
    const linger now{1, 0};
    setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  }
  const bool busy = receive_.pending() || send_.pending() || connect_.pending();
  if (busy) {
    // The operations hold the socket: closing alone would leave it open until the other end moves.
    if (!reset) ::shutdown(fd_.get(), SHUT_RDWR);
    for (Operation* operation :
         {static_cast<Operation*>(&receive_), static_cast<Operation*>(&send_), static_cast<Operation*>(&connect_)})
      home_.ring().cancel(*operation);
  }
  changed();
}

// Without an owner: back to where it came from, as new, once the kernel has nothing of it.
void Stream::changed() {
  if (owner_ != nullptr) return owner_->stream_changed();
  if (receive_.pending() || send_.pending() || connect_.pending()) return;
  fd_.reset();
  in.clear();
  out.clear();
  in.shrink(kBufferBytes);
  out.shrink(kBufferBytes);
  connected_ = ended_ = receive_failed_ = send_failed_ = false;
  connect_error_ = 0;
  sent_bytes_ = received_bytes_ = 0;
  home_.stream_free(*this);
}

void Stream::receive() {
  if (!connected_ || ended_ || receive_failed_ || receive_.pending()) return;
  if (in.empty()) {
    in.clear();
  } else if (in.room() < in.capacity() / 2) {
    in.compact();
  }
  if (in.room() == 0) return;
  home_.ring().receive(receive_, fd_.get(), in.tail(), in.room());
}

void Stream::flush() {
  if (!connected_ || send_failed_ || send_.pending() || out.empty()) return;
  if (out.room() < out.capacity() / 2) out.compact();
  home_.ring().send(send_, fd_.get(), out.bytes().data(), out.size());
}

void Stream::shut_down_sending() { ::shutdown(fd_.get(), SHUT_WR); }

bool Stream::reserve_out(size_t bytes) {
  if (out.room() >= bytes) return true;
  if (send_.pending()) return false;
  out.reserve(bytes);
  return true;
}

void Stream::received(int result) {
  if (result > 0) {
    in.produced(static_cast<size_t>(result));
    received_bytes_ += static_cast<uint64_t>(result);
  } else if (result == 0) {
    ended_ = true;
  } else if (result != -EINTR && result != -EAGAIN) {
    receive_failed_ = true;
  }
  changed();
}

void Stream::sent(int result) {
  if (result > 0) {
    out.consume(static_cast<size_t>(result));
    sent_bytes_ += static_cast<uint64_t>(result);
    if (out.empty()) {
      out.clear();
    }
  } else if (result != -EINTR && result != -EAGAIN) {
    send_failed_ = true;
  }
  changed();
}

void Stream::connect_done(int result) {
  if (result == 0) {
    connected_ = true;
  } else {
    connect_error_ = -result;
  }
  changed();
}

}  // namespace shunt::proxy
