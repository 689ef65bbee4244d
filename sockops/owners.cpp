#include "sockops/owners.hpp"

#include <elf.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sockops/namespaces.hpp>
#include <sstream>

namespace shunt {
namespace {

constexpr int kCgroupDepthMax = 16;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream all;
  all << file.rdbuf();
  return all.str();
}

// Go's linker puts build information into a section of its own (cmd/link: .go.buildinfo).
bool is_go_binary(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header = {};
  if (!file.read(reinterpret_cast<char*>(&header), sizeof(header)) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    return false;
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr)) return false;
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  file.seekg(static_cast<std::streamoff>(header.e_shoff));
  auto bytes = static_cast<std::streamsize>(sections.size() * sizeof(Elf64_Shdr));
  if (!file.read(reinterpret_cast<char*>(sections.data()), bytes) || header.e_shstrndx >= sections.size()) return false;
  std::string names(sections[header.e_shstrndx].sh_size, '\0');
  file.seekg(static_cast<std::streamoff>(sections[header.e_shstrndx].sh_offset));
  if (!file.read(names.data(), static_cast<std::streamsize>(names.size()))) return false;
  return names.find(".go.buildinfo") != std::string::npos || names.find(".note.go.buildid") != std::string::npos;
}

bool file_splices(const std::filesystem::path& path) {
  static const std::regex option(R"(^\s*option\s+splice-(auto|request|response))");
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (std::regex_search(line, option)) return true;
  return false;
}

// haproxy splices only where its configuration says so: the files named on its command line, or those of a named
// folder.
bool haproxy_splices(uint32_t tgid) {
  std::string raw = read_file(fmt::format("/proc/{}/cmdline", tgid));
  std::vector<std::string> words;
  std::istringstream split(raw);
  for (std::string word; std::getline(split, word, '\0');) words.push_back(word);
  std::string root = fmt::format("/proc/{}/root", tgid), cwd = fmt::format("/proc/{}/cwd/", tgid);
  bool seen = false;
  for (size_t i = 1; i < words.size(); i++) {
    bool file_follows = words[i - 1] == "-f" || words[i - 1] == "--";
    if (!file_follows) continue;
    std::filesystem::path path = words[i].starts_with('/') ? root + words[i] : cwd + words[i];
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
      for (const auto& entry : std::filesystem::directory_iterator(path, ignored))
        if (file_splices(entry.path())) return true;
    } else if (file_splices(path)) {
      return true;
    }
    seen = true;
  }
  return !seen;  // a configuration that cannot be found cannot be trusted
}

std::string unit_of(const std::string& path) {
  std::filesystem::path below(path);
  for (auto part = below.end(); part != below.begin();) {
    --part;
    std::string name = part->string();
    if (name.ends_with(".service") || name.ends_with(".scope") || name.ends_with(".socket")) return name;
  }
  return path.empty() ? "/" : path;
}

}  // namespace

Result<std::vector<sh_owner>> socket_owners(const Generation& generation) {
  auto program = open_pin(generation.dir + "/prog_iter_owners");
  if (!program) return unexpected(program.error());
  auto raw = run_iterator(program->get());
  if (!raw) return unexpected(raw.error());
  std::vector<sh_owner> owners(raw->size() / sizeof(sh_owner));
  if (!owners.empty()) memcpy(owners.data(), raw->data(), owners.size() * sizeof(sh_owner));
  return owners;
}

std::vector<UniqueFd> namespaces_with_sockets(const Paths& paths) {
  auto newest = newest_whole_generation(paths);
  if (!newest) return network_namespaces();
  auto owners = socket_owners(*newest);
  return owners ? network_namespaces(*owners) : network_namespaces();
}

void CgroupNames::scan() {
  std::error_code ignored;
  struct stat info = {};
  if (stat(root_.c_str(), &info) == 0) names_[info.st_ino] = "/";
  auto entry = std::filesystem::recursive_directory_iterator(
      root_, std::filesystem::directory_options::skip_permission_denied, ignored);
  for (; entry != std::filesystem::recursive_directory_iterator(); entry.increment(ignored)) {
    if (!entry->is_directory(ignored)) continue;
    if (entry.depth() >= kCgroupDepthMax) entry.disable_recursion_pending();
    if (stat(entry->path().c_str(), &info) == 0)
      names_[info.st_ino] = unit_of(entry->path().string().substr(root_.size()));
  }
  scanned_ = true;
}

std::string CgroupNames::name(uint64_t id) {
  if (!scanned_) scan();
  auto found = names_.find(id);
  return found == names_.end() ? std::string() : found->second;
}

uint32_t inspect_process(uint32_t tgid) {
  std::string exe = fmt::format("/proc/{}/exe", tgid);
  if (is_go_binary(exe)) return SH_R_PROGRAM_GO;
  std::error_code ignored;
  std::string name = std::filesystem::read_symlink(exe, ignored).filename().string();
  if (name.starts_with("haproxy") && haproxy_splices(tgid)) return SH_R_PROGRAM_SPLICES;
  return SH_R_NONE;
}

}  // namespace shunt
