// Loads every BPF object given: run in the guests, it shows that each program passes their kernels' verifiers.
// A program that its section name marks as optional ("?...") is loaded in a second attempt of its own object. A program
// that the verifier had to walk for long fails, too: another kernel's may not reach its end, and loading it takes
// seconds.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace {

struct CloseObject {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};
using Object = std::unique_ptr<bpf_object, CloseObject>;

constexpr uint32_t kVerifiedMax = 250'000;  // a quarter of the kernel's BPF_COMPLEXITY_LIMIT_INSNS

std::string libbpf_log;

int keep_log(libbpf_print_level level, const char* format, va_list args) {
  if (level == LIBBPF_DEBUG) return 0;
  std::vector<char> line(1 << 20);
  int length = vsnprintf(line.data(), line.size(), format, args);
  libbpf_log += line.data();
  return length;
}

// The verifier's last words are what tells; its whole log may have a million lines.
void print_log_tail() {
  constexpr size_t kTailBytes = 6000;
  size_t start = libbpf_log.size() > kTailBytes ? libbpf_log.size() - kTailBytes : 0;
  printf("%s\n", libbpf_log.c_str() + start);
}

// False: one is too much for the verifier.
bool print_sizes(const bpf_object* object, const char* kind) {
  bool fine = true;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    int fd = bpf_program__fd(program);
    bpf_prog_info info = {};
    uint32_t length = sizeof(info);
    if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &length) != 0) continue;
    const bool more = info.verified_insns > kVerifiedMax;
    printf("%s %-28s %7u instructions verified%s\n", more ? "FAIL" : "    ", bpf_program__name(program),
           info.verified_insns, kind);
    fine = fine && !more;
  }
  return fine;
}

// `only`: the optional program to load, alone; null: what loads by default.
bool load(const char* path, const char* only, std::vector<std::string>* optional) {
  libbpf_log.clear();
  Object object(bpf_object__open_file(path, nullptr));
  if (!object) {
    printf("FAIL %s: open: %s\n", path, strerror(errno));
    print_log_tail();
    return false;
  }
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object.get()) {
    const char* name = bpf_program__name(program);
    if (optional && !bpf_program__autoload(program)) optional->push_back(name);
    if (only) bpf_program__set_autoload(program, strcmp(name, only) == 0);
  }
  int error = bpf_object__load(object.get());
  printf("%s %s%s%s\n", error ? "FAIL" : "ok  ", path, only ? " optional " : "", only ? only : "");
  if (error) {
    printf("    load: %s\n", strerror(-error));
    print_log_tail();
    return false;
  }
  return print_sizes(object.get(), only ? " (optional)" : "");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: load_all OBJECT...\n");
    return 64;
  }
  libbpf_set_print(keep_log);
  int passed = 0;
  int failed = 0;
  for (int i = 1; i < argc; i++) {
    std::vector<std::string> optional;
    (load(argv[i], nullptr, &optional) ? passed : failed)++;
    for (const std::string& name : optional) (load(argv[i], name.c_str(), nullptr) ? passed : failed)++;
  }
  printf("%d loaded, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}
