// The state of a running gateway: a JSON document for each connection to a Unix socket.
#pragma once

#include <base/event_loop.hpp>
#include <ktls/gateway/shared.hpp>

namespace shunt::gateway {

std::string status_document(const Shared& shared);

class StatusSocket {
 public:
  StatusSocket() = default;
  StatusSocket(const StatusSocket&) = delete;
  StatusSocket& operator=(const StatusSocket&) = delete;
  ~StatusSocket();

  Result<void> open(const std::string& path);  // empty: none
  Result<void> serve(EventLoop& loop, const Shared& shared);

 private:
  std::string path_;
  UniqueFd socket_;
};

}  // namespace shunt::gateway
