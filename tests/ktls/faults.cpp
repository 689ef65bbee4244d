#include "ktls/faults.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <new>
#include <string_view>
#include <utility>

#include "support/sandbox.hpp"

namespace shunt::test {

// How a call may fail. A part: of the bytes that were to be moved, half are; nothing: it says 0, and moves nothing.
struct Way {
  enum class Effect { code, part, nothing };
  const char* name;  // the call's, a blank, and what becomes of it
  Effect effect;
  int code;
  bool harmless;
};

}  // namespace shunt::test

namespace {

using shunt::test::FailingStep;
using shunt::test::Fault;
using shunt::test::Way;
using enum Way::Effect;

Fault injected = Fault::none;
int injected_code = 0;
bool pretending = false;

thread_local FailingStep* failing_step = nullptr;
thread_local bool walking = false;
thread_local size_t allocations = 0, failing = 0, news = 0;

constexpr Way kSetsockopt[] = {{"setsockopt ENOMEM", code, ENOMEM, false}, {"setsockopt EBUSY", code, EBUSY, false}};
constexpr Way kGetsockopt[] = {{"getsockopt ENOBUFS", code, ENOBUFS, false}};
constexpr Way kShutdown[] = {{"shutdown ENOTCONN", code, ENOTCONN, false}};
constexpr Way kClose[] = {{"close EIO", code, EIO, true}};  // the descriptor is gone all the same
constexpr Way kSend[] = {{"send EINTR", code, EINTR, true},
                         {"send EAGAIN", code, EAGAIN, true},
                         {"send in part", part, 0, true},
                         {"send ENOMEM", code, ENOMEM, false},
                         {"send EPIPE", code, EPIPE, false}};
constexpr Way kSendmsg[] = {{"sendmsg EINTR", code, EINTR, true},
                            {"sendmsg EAGAIN", code, EAGAIN, true},
                            {"sendmsg ENOMEM", code, ENOMEM, false},
                            {"sendmsg ECONNRESET", code, ECONNRESET, false}};
constexpr Way kRecvmsg[] = {{"recvmsg EINTR", code, EINTR, true},
                            {"recvmsg EAGAIN", code, EAGAIN, true},
                            {"recvmsg in part", part, 0, true},
                            {"recvmsg 0", nothing, 0, false},
                            {"recvmsg ENOMEM", code, ENOMEM, false},
                            {"recvmsg EINVAL", code, EINVAL, false},
                            {"recvmsg ECONNRESET", code, ECONNRESET, false}};
// Of a record that is known to be there. EAGAIN is no answer then, and 7.2 does not wake anybody for a KeyUpdate that
// it has seen.
constexpr Way kRecvmsgThere[] = {{"recvmsg EINTR", code, EINTR, true},
                                 {"recvmsg in part", part, 0, true},
                                 {"recvmsg ENOMEM", code, ENOMEM, false},
                                 {"recvmsg ECONNRESET", code, ECONNRESET, false}};
constexpr Way kSplice[] = {{"splice EINTR", code, EINTR, true},    {"splice EAGAIN", code, EAGAIN, true},
                           {"splice in part", part, 0, true},      {"splice 0", nothing, 0, true},
                           {"splice EINVAL", code, EINVAL, false}, {"splice ENOMEM", code, ENOMEM, false}};
// OpenSSL's own.
constexpr Way kRead[] = {{"read EINTR", code, EINTR, true},
                         {"read EAGAIN", code, EAGAIN, true},
                         {"read in part", part, 0, true},
                         {"read 0", nothing, 0, false},
                         {"read ECONNRESET", code, ECONNRESET, false}};
constexpr Way kWrite[] = {{"write EINTR", code, EINTR, true},
                          {"write EAGAIN", code, EAGAIN, true},
                          {"write in part", part, 0, true},
                          {"write EPIPE", code, EPIPE, false}};
constexpr Way kAllocation[] = {{"malloc fails", code, ENOMEM, false}};  // of OpenSSL
constexpr Way kNew[] = {{"new fails", code, ENOMEM, false}};

constexpr std::span<const Way> kAll[] = {kSetsockopt, kGetsockopt, kShutdown, kClose, kSend,       kSendmsg,
                                         kRecvmsg,    kSplice,     kRead,     kWrite, kAllocation, kNew};

constexpr int kNoDescriptor = -1;

std::string_view call_of(const Way& way) {
  return std::string_view(way.name).substr(0, std::string_view(way.name).find(' '));
}

const Way* step(std::span<const Way> ways, int fd) {
  return failing_step && walking ? failing_step->step(ways, fd) : nullptr;
}

// Libc's, which the definitions below hide.
template <typename Function>
Function* hidden(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

template <typename Call>
auto moves(std::span<const Way> ways, int fd, size_t bytes, Call call) {
  const Way* way = step(ways, fd);
  if (!way) return call(bytes);
  if (way->effect == part) return call((bytes + 1) / 2);
  errno = way->code;
  return decltype(call(bytes)){way->effect == nothing ? 0 : -1};
}

bool fails(std::span<const Way> ways, int fd) {
  const Way* way = step(ways, fd);
  if (way) errno = way->code;
  return way != nullptr;
}

Fault kind_of(int level, int name) {
  if (level == IPPROTO_TCP && name == TCP_ULP) return Fault::ulp;
  if (level == SOL_TLS && name == TLS_TX) return Fault::tx_keys;
  if (level == SOL_TLS && name == TLS_RX) return Fault::rx_keys;
  return Fault::none;
}

bool allocation_fails() { return ++allocations == failing || fails(kAllocation, kNoDescriptor); }

void* hooked_malloc(size_t size, const char*, int) { return allocation_fails() ? nullptr : malloc(size); }
void* hooked_realloc(void* old, size_t size, const char*, int) {
  return allocation_fails() ? nullptr : realloc(old, size);
}
void hooked_free(void* memory, const char*, int) { free(memory); }

}  // namespace

extern "C" {

int setsockopt(int fd, int level, int name, const void* value, socklen_t size) noexcept {
  static const auto next = hidden<int(int, int, int, const void*, socklen_t)>("setsockopt");
  const Fault kind = kind_of(level, name);
  if (kind != Fault::none && kind == injected) {
    errno = injected_code;
    return -1;
  }
  if (fails(kSetsockopt, fd)) return -1;
  return kind != Fault::none && pretending ? 0 : next(fd, level, name, value, size);
}

int getsockopt(int fd, int level, int name, void* value, socklen_t* size) noexcept {
  static const auto next = hidden<int(int, int, int, void*, socklen_t*)>("getsockopt");
  return fails(kGetsockopt, fd) ? -1 : next(fd, level, name, value, size);
}

int shutdown(int fd, int how) noexcept {
  static const auto next = hidden<int(int, int)>("shutdown");
  return fails(kShutdown, fd) ? -1 : next(fd, how);
}

int close(int fd) {
  static const auto next = hidden<int(int)>("close");
  const int result = next(fd);
  return fails(kClose, fd) ? -1 : result;
}

ssize_t send(int fd, const void* bytes, size_t size, int flags) {
  static const auto next = hidden<ssize_t(int, const void*, size_t, int)>("send");
  return moves(kSend, fd, size, [&](size_t some) { return next(fd, bytes, some, flags); });
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  static const auto next = hidden<ssize_t(int, const msghdr*, int)>("sendmsg");
  return fails(kSendmsg, fd) ? -1 : next(fd, message, flags);
}

ssize_t recvmsg(int fd, msghdr* message, int flags) {
  static const auto next = hidden<ssize_t(int, msghdr*, int)>("recvmsg");
  if (message->msg_iovlen != 1) return next(fd, message, flags);
  const std::span<const Way> ways = flags & MSG_DONTWAIT ? std::span<const Way>(kRecvmsgThere) : kRecvmsg;
  return moves(ways, fd, message->msg_iov->iov_len, [&](size_t some) {
    message->msg_iov->iov_len = some;
    return next(fd, message, flags);
  });
}

ssize_t splice(int from, off64_t* from_at, int to, off64_t* to_at, size_t size, unsigned flags) {
  static const auto next = hidden<ssize_t(int, off64_t*, int, off64_t*, size_t, unsigned)>("splice");
  return moves(kSplice, kNoDescriptor, size, [&](size_t some) { return next(from, from_at, to, to_at, some, flags); });
}

ssize_t read(int fd, void* bytes, size_t size) {
  static const auto next = hidden<ssize_t(int, void*, size_t)>("read");
  return moves(kRead, fd, size, [&](size_t some) { return next(fd, bytes, some); });
}

ssize_t write(int fd, const void* bytes, size_t size) {
  static const auto next = hidden<ssize_t(int, const void*, size_t)>("write");
  return moves(kWrite, fd, size, [&](size_t some) { return next(fd, bytes, some); });
}

}  // extern "C"

#ifdef __has_feature
#define SHUNT_UNDER_THREAD_SANITIZER __has_feature(thread_sanitizer)
#else
#define SHUNT_UNDER_THREAD_SANITIZER 0
#endif
#if !SHUNT_UNDER_THREAD_SANITIZER
void* operator new(size_t size) {
  news++;
  void* memory = fails(kNew, kNoDescriptor) ? nullptr : malloc(size ? size : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}
// A sanitizer's own does not come to the one above, and its memory may not go to free().
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  news++;
  return fails(kNew, kNoDescriptor) ? nullptr : malloc(size ? size : 1);
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { free(memory); }
#endif

namespace shunt::test {

const bool kNewsAreSteps = !SHUNT_UNDER_THREAD_SANITIZER;

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

FailingStep::FailingStep(std::string call, size_t number, size_t way)
    : call_(std::move(call)), number_(number), way_(way) {
  require(!failing_step, "have one failing step at a time");
  failing_step = this;
}

FailingStep::~FailingStep() { failing_step = nullptr; }

const Way* FailingStep::step(std::span<const Way> ways, int fd) {
  if ((fd != kNoDescriptor && fd != fd_) || call_of(ways[0]) != call_) return nullptr;
  if (++steps_ != number_) return nullptr;
  ways_ = ways.size();
  injected_ = &ways[way_];
  return injected_;
}

std::string FailingStep::name() const { return injected_ ? injected_->name : "nothing"; }

bool FailingStep::harmless() const { return !injected_ || injected_->harmless; }

const std::set<std::string>& steps_of_a_walk() {
  static const std::set<std::string> names = [] {
    std::set<std::string> all;
    for (const std::span<const Way> ways : kAll) all.emplace(call_of(ways[0]));
    return all;
  }();
  return names;
}

std::set<std::string> ways_of(const std::set<std::string>& calls) {
  std::set<std::string> names;
  for (const std::span<const Way> ways : kAll) {
    if (!calls.contains(std::string(call_of(ways[0])))) continue;
    for (const Way& way : ways) names.insert(way.name);
  }
  return names;
}

Walk::Walk() { walking = true; }
Walk::~Walk() { walking = false; }

}  // namespace shunt::test
