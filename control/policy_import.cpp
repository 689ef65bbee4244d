#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <base/parse.hpp>
#include <base/printable.hpp>
#include <base/unique_fd.hpp>
#include <control/policy_import.hpp>
#include <cstdio>
#include <filesystem>
#include <set>

namespace shunt {
namespace {

namespace fs = std::filesystem;

bool is_document(const fs::path& path) {
  return path.extension() == ".yaml" || path.extension() == ".yml" || path.extension() == ".json";
}

Result<void> write_whole(int fd, const std::string& text, const std::string& path) {
  for (size_t at = 0; at < text.size();) {
    const ssize_t written = ::write(fd, text.data() + at, text.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return unexpected(errno, "cannot write " + path);
    at += static_cast<size_t>(written);
  }
  if (fsync(fd) != 0) return unexpected(errno, "cannot write " + path);
  return {};
}

// The names in a folder are on disk.
void sync_folder(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd) fsync(fd.get());
}

}  // namespace

StagedPolicies::StagedPolicies(StagedPolicies&& other) noexcept
    : directory_(std::move(other.directory_)),
      beside_(std::exchange(other.beside_, {})),
      was_there_(other.was_there_),
      documents_(std::move(other.documents_)),
      kept_(std::move(other.kept_)),
      removed_(std::move(other.removed_)) {}

StagedPolicies::~StagedPolicies() {
  std::error_code ignored;
  if (!beside_.empty()) fs::remove_all(beside_, ignored);
}

// The same file under two names, not a copy; a symbolic link stays one.
Result<void> StagedPolicies::keep(const std::string& name) {
  const std::string from = directory_ + "/" + name;
  std::error_code code;
  const auto status = fs::symlink_status(from, code);
  if (fs::is_directory(status))
    return invalid(from + " is a folder", "the folder of policies holds files; move it elsewhere");
  if (linkat(AT_FDCWD, from.c_str(), AT_FDCWD, (beside_ + "/" + name).c_str(), 0) != 0)
    return unexpected(errno, "cannot keep " + from);
  if (is_document(name)) kept_.push_back(from);
  return {};
}

Result<void> StagedPolicies::add(const std::string& name, const std::string& text) const {
  const std::string path = beside_ + "/" + name;
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd) return unexpected(errno, "cannot make " + path);
  return write_whole(fd.get(), text, path);
}

Result<StagedPolicies> StagedPolicies::make(const std::string& directory, const std::vector<TextSource>& documents,
                                            bool replace) {
  StagedPolicies staged;
  staged.directory_ = directory;
  staged.documents_ = documents;
  std::set<std::string> names;
  for (const TextSource& document : documents) {
    const fs::path path(document.name);
    if (!is_document(path))
      return invalid(in_quotes(document.name) + " is not named as a document", "documents end in .yaml, .yml or .json");
    if (!names.insert(path.filename()).second)
      return invalid("two of the files are named " + in_quotes(path.filename().string()), "rename one");
  }
  std::error_code code;
  fs::create_directories(fs::path(directory).parent_path(), code);
  std::string beside = directory + ".XXXXXX";
  if (mkdtemp(beside.data()) == nullptr) return unexpected(errno, "cannot make a folder beside " + directory);
  staged.beside_ = beside;
  struct stat info = {};
  staged.was_there_ = stat(directory.c_str(), &info) == 0;
  if (chmod(beside.c_str(), staged.was_there_ ? info.st_mode & 07777 : 0755) != 0)
    return unexpected(errno, "cannot make " + beside);
  for (fs::directory_iterator it(directory, code), end; !code && it != end; it.increment(code)) {
    const std::string name = it->path().filename();
    if (names.contains(name)) continue;
    if (replace && is_document(name)) {
      staged.removed_.push_back(name);
    } else if (auto kept = staged.keep(name); !kept) {
      return unexpected(kept.error());
    }
  }
  std::sort(staged.kept_.begin(), staged.kept_.end());
  std::sort(staged.removed_.begin(), staged.removed_.end());
  for (const TextSource& document : documents) {
    if (auto added = staged.add(fs::path(document.name).filename(), document.text); !added)
      return unexpected(added.error());
  }
  sync_folder(beside);
  return staged;
}

policy::Loaded StagedPolicies::check() const {
  std::vector<Problem> unreadable;
  std::vector<TextSource> sources = policy::read_files(kept_, unreadable);
  sources.insert(sources.end(), documents_.begin(), documents_.end());
  policy::Loader loader;
  policy::Loaded loaded = loader.load(sources);
  loaded.problems.insert(loaded.problems.begin(), unreadable.begin(), unreadable.end());
  return loaded;
}

Result<void> StagedPolicies::exchange() {
  const unsigned flags = was_there_ ? RENAME_EXCHANGE : RENAME_NOREPLACE;
  if (renameat2(AT_FDCWD, beside_.c_str(), AT_FDCWD, directory_.c_str(), flags) != 0)
    return unexpected(errno, "cannot exchange " + directory_ + " for its new content",
                      errno == EBUSY ? "it is a mount: change its files yourself, and 'shunt reload'" : "");
  sync_folder(fs::path(directory_).parent_path());
  return {};
}

Result<void> StagedPolicies::take_back() {
  const unsigned flags = was_there_ ? RENAME_EXCHANGE : RENAME_NOREPLACE;
  const auto& from = directory_;
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, beside_.c_str(), flags) != 0)
    return unexpected(errno, "cannot put the old content of " + directory_ + " back");
  sync_folder(fs::path(directory_).parent_path());
  return {};
}

}  // namespace shunt
