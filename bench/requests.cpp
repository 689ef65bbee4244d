#include <sys/epoll.h>

#include <bench/end_tools.hpp>
#include <bench/pattern.hpp>
#include <bench/requests.hpp>
#include <memory>

namespace shunt::bench {
namespace {

constexpr int kEventsMax = 64;

// One held connection, and the message that comes over it.
struct Conversation {
  explicit Conversation(UniqueFd socket, size_t message_bytes) : channel(std::move(socket)), message(message_bytes) {}
  SocketChannel channel;
  std::vector<unsigned char> message;
  size_t filled = 0;
  uint64_t number = 0;
  uint64_t sent_ns = 0;

  // What is there now. 0: the peer has ended.
  Result<size_t> receive() {
    Result<size_t> got = channel.receive_some(message.data() + filled, message.size() - filled);
    if (got) filled += *got;
    return got;
  }
  bool whole() const { return filled == message.size(); }
};
using Conversations = std::vector<std::unique_ptr<Conversation>>;

std::vector<unsigned char> pattern_message(size_t bytes) {
  const Pattern pattern(bytes);
  return {pattern.at(0), pattern.at(0) + bytes};
}

// Waits for whatever comes on any of them.
class Waiter {
 public:
  static Result<Waiter> open(const Conversations& conversations) {
    Waiter waiter(UniqueFd(epoll_create1(EPOLL_CLOEXEC)));
    if (!waiter.fd_) return unexpected(errno, "epoll");
    for (const auto& one : conversations) {
      epoll_event event{EPOLLIN, {.ptr = one.get()}};
      if (epoll_ctl(waiter.fd_.get(), EPOLL_CTL_ADD, one->channel.fd(), &event) != 0) return unexpected(errno, "epoll");
    }
    return waiter;
  }

  // `each` gets a conversation where something has come.
  template <typename Each>
  Result<void> once(Each each) {
    epoll_event events[kEventsMax];
    int count;
    do {
      count = epoll_wait(fd_.get(), events, kEventsMax, -1);
    } while (count < 0 && errno == EINTR);
    if (count < 0) return unexpected(errno, "epoll");
    for (int i = 0; i < count; i++) {
      if (auto done = each(*static_cast<Conversation*>(events[i].data.ptr)); !done) return done;
    }
    return {};
  }

  void forget(const Conversation& one) { epoll_ctl(fd_.get(), EPOLL_CTL_DEL, one.channel.fd(), nullptr); }

 private:
  explicit Waiter(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

class Server {
 public:
  Server(const RunSpec& spec, EndReport* report)
      : report_(report), response_(pattern_message(spec.cell.message_bytes)) {}

  Result<void> run(const RunSpec& spec, const RunSignals& signals) {
    Result<UniqueFd> listener = listen_at(listening_address(spec));
    if (!listener) return unexpected(listener.error());
    if (!signal_pipe(signals.listening_write)) return unexpected(errno, "signal");
    for (int i = 0; i < spec.cell.connections; i++) {
      if (auto taken = take(listener->get(), spec.greets); !taken) return taken;
    }
    Result<Waiter> waiter = Waiter::open(conversations_);
    if (!waiter) return unexpected(waiter.error());
    Meter meter(report_);
    for (size_t left = conversations_.size(); left > 0;) {
      auto turned = waiter->once([&](Conversation& one) -> Result<void> {
        Result<bool> goes_on = serve_one(one);
        if (!goes_on) return unexpected(goes_on.error());
        if (!*goes_on) waiter->forget(one), left--;
        return {};
      });
      if (!turned) return turned;
    }
    meter.stop();
    return {};
  }

 private:
  Result<void> take(int listener, bool greets) {
    Result<UniqueFd> fd = accept_one(listener);
    if (!fd) return unexpected(fd.error());
    if (auto set = set_no_delay(fd->get()); !set) return set;
    conversations_.push_back(std::make_unique<Conversation>(std::move(*fd), kRequestBytes));
    return greets ? greet(&conversations_.back()->channel) : Result<void>();
  }

  // False: the client has ended.
  Result<bool> serve_one(Conversation& one) {
    Result<size_t> got = one.receive();
    if (!got) return unexpected(got.error());
    if (*got == 0 && one.filled > 0) return unexpected(Error{EBADMSG, "integrity: half of a request", {}});
    if (*got == 0) return false;
    if (!one.whole()) return true;
    const uint64_t number = number_of(one.message);
    stamp(&request_, number);
    if (auto right = check_message(one.message, request_, number, true); !right) return unexpected(right.error());
    stamp(&response_, number);
    if (auto sent = one.channel.send_all(response_.data(), response_.size()); !sent) return unexpected(sent.error());
    one.filled = 0;
    report_->messages++;
    report_->bytes += response_.size();
    return true;
  }

  EndReport* report_;
  std::vector<unsigned char> request_ = pattern_message(kRequestBytes);
  std::vector<unsigned char> response_;
  Conversations conversations_;
};

class Client {
 public:
  Client(const RunSpec& spec, RunMemory* memory)
      : spec_(spec), memory_(memory), report_(&memory->client), response_(pattern_message(spec.cell.message_bytes)) {}

  Result<void> run(const RunSignals& signals) {
    if (auto ready = await_pipe(signals.listening_read, "before it listened"); !ready) return ready;
    for (int i = 0; i < spec_.cell.connections; i++) {
      if (auto connected = connect(); !connected) return connected;
    }
    Result<Waiter> waiter = Waiter::open(conversations_);
    if (!waiter) return unexpected(waiter.error());
    note_cost(spec_, &memory_->cost_start);
    Meter meter(report_);
    deadline_ns_ = meter.deadline_ns(spec_.seconds);
    for (const auto& one : conversations_) {
      if (auto asked = ask(*one, now_ns()); !asked) return asked;
    }
    while (under_way_ > 0) {
      auto turned = waiter->once([this](Conversation& one) { return take_answer(one); });
      if (!turned) return turned;
    }
    meter.stop();
    note_cost(spec_, &memory_->cost_end);
    for (const auto& one : conversations_) {
      if (auto finished = one->channel.finish_sending(); !finished) return finished;
    }
    return {};
  }

 private:
  Result<void> connect() {
    Result<UniqueFd> fd = connect_to(dialled_address(spec_));
    if (!fd) return unexpected(fd.error());
    if (auto set = set_no_delay(fd->get()); !set) return set;
    conversations_.push_back(std::make_unique<Conversation>(std::move(*fd), response_.size()));
    return spec_.greets ? await_greeting(&conversations_.back()->channel) : Result<void>();
  }

  Result<void> ask(Conversation& one, uint64_t now) {
    one.number = next_number_++;
    one.sent_ns = now;
    one.filled = 0;
    stamp(&request_, one.number);
    under_way_++;
    return one.channel.send_all(request_.data(), request_.size());
  }

  Result<void> take_answer(Conversation& one) {
    Result<size_t> got = one.receive();
    if (!got) return unexpected(got.error());
    if (*got == 0) return unexpected(Error{EBADMSG, "integrity: the connection ended before the response", {}});
    if (!one.whole()) return {};
    const uint64_t now = now_ns();
    stamp(&response_, one.number);
    if (auto right = check_message(one.message, response_, one.number, true); !right) return right;
    memory_->latencies.add(now - one.sent_ns);
    report_->messages++;
    report_->bytes += response_.size();
    under_way_--;
    return now < deadline_ns_ ? ask(one, now) : Result<void>();
  }

  const RunSpec& spec_;
  RunMemory* memory_;
  EndReport* report_;
  uint64_t deadline_ns_ = 0;
  uint64_t next_number_ = 1;
  int under_way_ = 0;
  std::vector<unsigned char> request_ = pattern_message(kRequestBytes);
  std::vector<unsigned char> response_;
  Conversations conversations_;
};

}  // namespace

Result<void> serve_requests(const RunSpec& spec, const RunSignals& signals, RunMemory* memory) {
  return Server(spec, &memory->server).run(spec, signals);
}

Result<void> drive_requests(const RunSpec& spec, const RunSignals& signals, RunMemory* memory) {
  return Client(spec, memory).run(signals);
}

}  // namespace shunt::bench
