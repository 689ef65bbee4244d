// Trials of readers that are blocked in recv() while something happens to the socket.
#include <bpf/abi/probe.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cstring>

#include "probe_trials.hpp"

namespace shunt {

namespace {

// What recv() returned in the reader.
struct Outcome {
  ssize_t size = 0;
  int error = 0;
  bool still_blocked = false;
};

std::string describe(const Outcome& outcome) {
  if (outcome.still_blocked) return "still blocked";
  return outcome.size < 0 ? strerror(outcome.error) : fmt::format("{} bytes", outcome.size);
}

void ignore_signal(int) {}

// A process that is blocked in recv() on a socket of the laboratory.
class BlockedReader {
 public:
  explicit BlockedReader(int fd) {
    fcntl(fd, F_SETFL, 0);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    reading_.reset(ends[0]);
    UniqueFd writing(ends[1]);
    child_ = fork();
    if (child_ == 0) read_once(fd, writing.get());
    wait_until_asleep();
  }
  ~BlockedReader() {
    if (child_ <= 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  BlockedReader(const BlockedReader&) = delete;
  BlockedReader& operator=(const BlockedReader&) = delete;

  void interrupt() { kill(child_, SIGUSR1); }
  // Still blocked is only what sleeps after that time: a process that was woken and waits for a CPU is waited for.
  Outcome outcome(int timeout_ms) {
    Outcome result;
    pollfd wanted = {reading_.get(), POLLIN, 0};
    bool ended = poll(&wanted, 1, timeout_ms) == 1;
    for (int waited_ms = timeout_ms; !ended && !asleep() && waited_ms < kPatienceMs; waited_ms += 5)
      ended = poll(&wanted, 1, 5) == 1;
    result.still_blocked = !ended || read(reading_.get(), &result, sizeof(result)) != sizeof(result);
    return result;
  }

 private:
  [[noreturn]] static void read_once(int fd, int report_to) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct sigaction action = {};
    action.sa_handler = ignore_signal;
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, nullptr);
    char buffer[64];
    Outcome result;
    result.size = recv(fd, buffer, sizeof(buffer), 0);
    result.error = result.size < 0 ? errno : 0;
    _exit(write(report_to, &result, sizeof(result)) == sizeof(result) ? 0 : 1);
  }
  // The state after the program's name in /proc/PID/stat.
  bool asleep() const {
    UniqueFd stat(open(fmt::format("/proc/{}/stat", child_).c_str(), O_RDONLY | O_CLOEXEC));
    char text[256] = {};
    if (read(stat.get(), text, sizeof(text) - 1) <= 0) return false;
    const char* name_end = strrchr(text, ')');
    return name_end && name_end[1] == ' ' && name_end[2] == 'S';
  }
  // Two looks, because it may sleep briefly before recv().
  void wait_until_asleep() const {
    for (int seen = 0, tries = 0; seen < 2 && tries < 2 * kPatienceMs; tries++) {
      usleep(500);
      if (asleep()) seen++;
    }
  }

  pid_t child_ = -1;
  UniqueFd reading_;
};

constexpr int kSoonMs = 300;

// A blocked reader must be woken by TCP's bytes, by redirected ones and by the end of the stream.
std::string try_wakes(Lab& lab, probe_map map) {
  for (probe_mode mode : {PROBE_PASS, PROBE_REDIRECT}) {
    Pair pair = lab.connect({.client = map, .server = map});
    lab.introduce(pair);
    lab.set_mode(pair.client.get(), mode);
    BlockedReader reader(pair.server.get());
    lab.send_message(pair, 10);
    Outcome got = reader.outcome(kSoonMs);
    if (got.size != 10)
      return fmt::format("{} when {} bytes came", describe(got), mode == PROBE_PASS ? "TCP's" : "redirected");
  }
  Pair pair = lab.connect({.client = map, .server = map});
  BlockedReader reader(pair.server.get());
  shutdown(pair.client.get(), SHUT_WR);
  Outcome got = reader.outcome(kSoonMs);
  if (got.still_blocked || got.size != 0) return fmt::format("{} when the stream ended", describe(got));
  return {};
}

Finding try_blocked(Lab& lab) {
  std::string wrong = try_wakes(lab, PROBE_MAP_PLAIN);
  if (lab.troubled()) return {};
  if (wrong.empty()) return works("a blocked reader is woken by TCP's bytes, redirected bytes and the end");
  return fatal("a blocked reader: " + wrong, "report this with the kernel's version");
}

Finding try_blocked_verdict(Lab& lab) {
  std::string wrong = try_wakes(lab, PROBE_MAP_VERDICT);
  if (lab.troubled()) return {};
  if (wrong.empty()) return works("a blocked reader is woken by TCP's bytes, redirected bytes and the end");
  return quirk("a blocked reader: " + wrong, "the verdict is not used");
}

// With SA_RESTART a blocked recv() goes on after a handler ran.
Finding try_signal(Lab& lab) {
  Pair pair = lab.connect();
  lab.introduce(pair);
  BlockedReader reader(pair.server.get());
  reader.interrupt();
  Outcome early = reader.outcome(20);
  if (!early.still_blocked)
    return quirk(fmt::format("a blocked recv() that is interrupted by a signal returns: {}", describe(early)),
                 "programs that block in recv() and handle signals may see it");
  lab.send_message(pair, 10);
  Outcome got = reader.outcome(kSoonMs);
  if (lab.troubled()) return {};
  if (got.size == 10) return works("a blocked recv() goes on after a signal");
  return quirk("a blocked recv() after a signal: " + describe(got),
               "programs that block in recv() and handle signals may see it");
}

// Of two blocked readers one gets the message, and the other goes on waiting.
Finding try_two_readers(Lab& lab) {
  Pair pair = lab.connect();
  lab.introduce(pair);
  lab.set_mode(pair.client.get(), PROBE_REDIRECT);
  BlockedReader first(pair.server.get()), second(pair.server.get());
  lab.send_message(pair, 10);
  Outcome one = first.outcome(30), other = second.outcome(30);
  if (lab.troubled()) return {};
  if (one.still_blocked != other.still_blocked && one.size + other.size == 10)
    return works("of two blocked readers the one without bytes goes on waiting");
  return quirk(fmt::format("of two blocked readers one gets: {}, the other: {}", describe(one), describe(other)),
               "programs whose threads read one socket at the same time may see it");
}

// One thread is blocked in recv(), another in the same process waits for room to send and gets it.
Finding try_reader_and_writer(Lab& lab) {
  Pair pair = lab.connect();
  lab.introduce(pair);
  BlockedReader reader(pair.server.get());
  std::string bytes(65536, 'w'), buffer(1 << 20, 0);
  while (send(pair.server.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
  }
  while (wait_readable(pair.client.get(), 2) && recv(pair.client.get(), buffer.data(), buffer.size(), 0) > 0) {
  }
  Outcome early = reader.outcome(5);
  if (lab.troubled()) return {};
  if (early.still_blocked) return works("a blocked recv() goes on when the socket gets room to send");
  return quirk(fmt::format("a blocked recv() returns when the socket gets room to send: {}", describe(early)),
               "programs that block in recv() while another thread sends may see it");
}

}  // namespace

std::vector<Trial> blocking_trials() {
  return {
      {"blocked-reader", {"probe_msg_mode"}, true, try_blocked},
      {"blocked-reader-verdict", {"probe_verdict"}, false, try_blocked_verdict},
      {"blocked-reader-signal", {"probe_msg_mode"}, false, try_signal},
      {"blocked-reader-writer", {"probe_msg_mode"}, false, try_reader_and_writer},
      {"blocked-readers-two", {"probe_msg_mode"}, false, try_two_readers},
  };
}

}  // namespace shunt
