#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <control/kept_policy.hpp>
#include <cstdio>

namespace shunt {
namespace {

Result<void> copy_whole(int from, int to) {
  struct stat info = {};
  if (fstat(from, &info) != 0) return unexpected(errno, "cannot look at the policy");
  for (off_t at = 0; at < info.st_size;) {
    const ssize_t copied = sendfile(to, from, &at, static_cast<size_t>(info.st_size - at));
    if (copied < 0) return unexpected(errno, "cannot copy the policy");
    if (copied == 0) return unexpected(EIO, "the policy became shorter while it was copied");
  }
  return {};
}

}  // namespace

Result<void> keep_policy(const std::string& file, int bundle) {
  const std::string beside = file + ".new";
  UniqueFd fd(open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd && errno == ENOENT) return {};
  if (!fd) return unexpected(errno, "cannot make " + beside);
  if (auto copied = copy_whole(bundle, fd.get()); !copied) return copied;
  if (fsync(fd.get()) != 0 || rename(beside.c_str(), file.c_str()) != 0)
    return unexpected(errno, "cannot keep " + file);
  return {};
}

Result<void> forget_policy(const std::string& file) {
  if (unlink(file.c_str()) == 0 || errno == ENOENT) return {};
  return unexpected(errno, "cannot remove " + file);
}

Result<std::vector<TextSource>> kept_policy(const std::string& file) {
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return unexpected(errno, "cannot read " + file);
  auto memfd = new_bundle();
  if (!memfd) return unexpected(memfd.error());
  if (auto copied = copy_whole(fd.get(), memfd->get()); !copied) return unexpected(copied.error());
  if (auto sealed = seal_bundle(memfd->get()); !sealed) return unexpected(sealed.error());
  auto bundle = open_bundle(memfd->get());
  if (!bundle) return unexpected(Error{EPROTO, file + " is not readable", "put a policy in force"});
  return std::move(bundle->sources);
}

}  // namespace shunt
