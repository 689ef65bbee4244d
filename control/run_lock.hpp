// One daemon at a time: a lock in the runtime folder. The CLI takes it too before it touches the pins without a daemon.
// Beside it stands the marker of `shunt off`, so that a restarted daemon stays off until `shunt on` or the next boot.
#pragma once

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <string>

namespace shunt {

class RunLock {
 public:
  // Makes the folder of the socket if needed. EBUSY: another process holds the lock.
  static Result<RunLock> acquire(const std::string& socket_path);

  // What a daemon leaves in the folder, and the folder if nothing else is in it; the lock is held meanwhile.
  static void remove_files(const std::string& socket_path);

 private:
  explicit RunLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

bool turned_off(const std::string& socket_path);
Result<void> mark_turned_off(const std::string& socket_path, bool off);

}  // namespace shunt
