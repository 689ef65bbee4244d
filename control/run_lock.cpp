#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <base/proxy_link.hpp>
#include <control/run_lock.hpp>
#include <filesystem>

namespace shunt {
namespace {

std::filesystem::path beside(const std::string& socket_path, const char* name) {
  return std::filesystem::path(socket_path).parent_path() / name;
}

}  // namespace

Result<RunLock> RunLock::acquire(const std::string& socket_path) {
  const std::filesystem::path file = beside(socket_path, "shuntd.lock");
  std::error_code code;
  std::filesystem::create_directories(file.parent_path(), code);
  if (code) return unexpected(code.value(), "cannot make " + file.parent_path().string());
  UniqueFd fd(open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return unexpected(errno, "cannot open " + file.string());
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return unexpected(
          Error{EBUSY, "another shuntd runs: it holds " + file.string(), "stop it first: systemctl stop shuntd"});
    return unexpected(errno, "cannot lock " + file.string());
  }
  return RunLock(std::move(fd));
}

void RunLock::remove_files(const std::string& socket_path) {
  std::error_code code;  // what cannot be removed stays: it holds nothing
  std::filesystem::remove(beside(socket_path, "off"), code);
  std::filesystem::remove(socket_path, code);
  std::filesystem::remove(proxy_socket_path(socket_path), code);
  std::filesystem::remove(gateway_socket_path(socket_path), code);
  std::filesystem::remove(beside(socket_path, "shuntd.lock"), code);
  std::filesystem::remove(std::filesystem::path(socket_path).parent_path(), code);
}

bool turned_off(const std::string& socket_path) {
  std::error_code code;
  return std::filesystem::exists(beside(socket_path, "off"), code);
}

Result<void> mark_turned_off(const std::string& socket_path, bool off) {
  const std::filesystem::path marker = beside(socket_path, "off");
  if (!off) {
    if (unlink(marker.c_str()) != 0 && errno != ENOENT) return unexpected(errno, "cannot remove " + marker.string());
    return {};
  }
  const UniqueFd fd(open(marker.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd) return unexpected(errno, "cannot write " + marker.string());
  return {};
}

}  // namespace shunt
