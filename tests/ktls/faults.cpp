#include "ktls/faults.hpp"

#include <linux/tcp.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>
#include <new>

#include "support/sandbox.hpp"

namespace {

using shunt::test::Fault;

Fault injected = Fault::none;
int injected_code = 0;
bool pretending = false;

thread_local size_t allocations = 0, failing = 0, news = 0;

Fault kind_of(int level, int name) {
  if (level == IPPROTO_TCP && name == TCP_ULP) return Fault::ulp;
  if (level == SOL_TLS && name == TLS_TX) return Fault::tx_keys;
  if (level == SOL_TLS && name == TLS_RX) return Fault::rx_keys;
  return Fault::none;
}

bool fails() { return ++allocations == failing; }

void* hooked_malloc(size_t size, const char*, int) { return fails() ? nullptr : malloc(size); }
void* hooked_realloc(void* old, size_t size, const char*, int) { return fails() ? nullptr : realloc(old, size); }
void hooked_free(void* memory, const char*, int) { free(memory); }

}  // namespace

extern "C" {
int __real_setsockopt(int fd, int level, int name, const void* value, socklen_t size);
int __wrap_setsockopt(int fd, int level, int name, const void* value, socklen_t size) {
  const Fault kind = kind_of(level, name);
  if (kind != Fault::none && kind == injected) {
    errno = injected_code;
    return -1;
  }
  if (kind != Fault::none && pretending) return 0;
  return __real_setsockopt(fd, level, name, value, size);
}
}

// The thread sanitizer's own cannot be replaced: under it nothing is counted here.
#ifdef __has_feature
#define SHUNT_UNDER_THREAD_SANITIZER __has_feature(thread_sanitizer)
#else
#define SHUNT_UNDER_THREAD_SANITIZER 0
#endif
#if !SHUNT_UNDER_THREAD_SANITIZER
void* operator new(size_t size) {
  news++;
  void* memory = malloc(size ? size : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}
// A sanitizer's own does not come to the one above, and its memory may not go to free().
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  news++;
  return malloc(size ? size : 1);
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { free(memory); }
#endif

namespace shunt::test {

InjectedFault::InjectedFault(Fault fault, int code, bool pretend) {
  injected = fault;
  injected_code = code;
  pretending = pretend;
}

InjectedFault::~InjectedFault() {
  injected = Fault::none;
  pretending = false;
}

void hook_allocations() {
  require(CRYPTO_set_mem_functions(hooked_malloc, hooked_realloc, hooked_free) == 1, "hook OpenSSL's allocations");
}

size_t fail_allocation(size_t number) {
  const size_t before = allocations;
  allocations = 0;
  failing = number;
  return before;
}

size_t new_count() { return news; }

}  // namespace shunt::test
