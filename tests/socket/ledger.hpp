// What the processes of the traffic checker share: results, and the ports of the listeners.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <new>
#include <string>

#include "socket/rounds.hpp"
#include "support/sandbox.hpp"

namespace shunt::test {

// How a connection is used. The listener's port decides, so that both ends know it from the first byte on.
enum class Kind : uint32_t {
  client_first,  // in turns, the connecting end speaks first, directly after connect()
  server_first,  // in turns, the accepting end speaks first
  duplex,        // both send at once, then half-close
  upload,        // one way to a slow reader, then FIN; the answer comes after the EOF
  download,      // one way to a slow reader; the other direction is closed at any time
  cut,           // as duplex, but somebody resets or closes in the middle
  killed,        // from here on: by the processes that fork and kill
  shared,
  handed_over,
  live,  // from the beginning to the end of the traffic: live.hpp
};
inline constexpr uint32_t kSocketKinds = 6;
inline constexpr uint32_t kKinds = 10;
inline const char* const kKindNames[kKinds] = {"client-first", "server-first", "duplex", "upload",      "download",
                                               "cut",          "killed",       "shared", "handed-over", "live"};

enum class Flavour : uint32_t { v4, v6, v4_mapped, dual_v6, reuse_port, defer_accept };
inline constexpr uint32_t kFlavours = 6;
inline constexpr uint32_t kServersMax = 16;
inline constexpr uint32_t kLiveMax = 1024;

struct Ledger {
  Rounds rounds;
  std::atomic<uint64_t> ended[kKinds];
  std::atomic<uint64_t> bytes;
  std::atomic<uint64_t> errors;
  std::atomic<uint64_t> stalled;
  std::atomic<uint64_t> early_wakeups;
  std::atomic<uint64_t> started;  // connections taken from the total
  std::atomic<uint32_t> servers_ready;
  std::atomic<bool> finish;  // begin nothing new, end what is there
  std::atomic<bool> stop;    // the connecting ends are done
  std::atomic<bool> live_ready;
  std::atomic<bool> slept;  // as TrafficConfig::sleep_once says
  uint16_t live_port;
  std::atomic<uint32_t> live_open;
  std::atomic<uint64_t> live_bytes;               // received and checked, on live connections
  std::atomic<uint64_t> live_received[kLiveMax];  // the same, by connection
  uint16_t ports[kServersMax][kSocketKinds][kFlavours];

  static constexpr uint32_t kMessages = 32;
  std::atomic<uint32_t> messages_used;
  char messages[kMessages][320];

  void fail(Kind kind, const std::string& text, bool stall) {
    if (stall) stalled.fetch_add(1);
    fail(kKindNames[static_cast<uint32_t>(kind)], text);
  }
  void fail(const char* where, const std::string& text) {
    errors.fetch_add(1);
    const uint32_t slot = messages_used.fetch_add(1);
    if (slot < kMessages) std::snprintf(messages[slot], sizeof(messages[slot]), "%s: %s", where, text.c_str());
  }
  void turn(RoundsMember& member) {
    if (member.turn()) fail("checker", "one of its threads hangs, or gets no CPU: nothing can be said");
  }
};

class SharedLedger {
 public:
  SharedLedger() {
    void* memory = mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED, "map shared memory");
    ledger_ = new (memory) Ledger{};
  }
  ~SharedLedger() { munmap(ledger_, sizeof(Ledger)); }
  SharedLedger(const SharedLedger&) = delete;
  SharedLedger& operator=(const SharedLedger&) = delete;
  Ledger& operator*() const { return *ledger_; }
  Ledger* operator->() const { return ledger_; }

 private:
  Ledger* ledger_;
};

}  // namespace shunt::test
