// One punt channel (bpf/abi/punt.h): requests that the kernel side does not judge come in here, one connection's at a
// time, and go back into that connection: to its server, which answers the client directly, or answered in its place.
//
//   bytes of the client -> head read -> judged -> body whole -> INJECT, piece by piece -> finished
//                                     \-> denied or refused -> ANSWER, when all earlier responses have arrived
//
// A server that ends before it has answered: ANSWER with a 502, whether its request is still here or not, and no more
// requests of that connection.
//
// The kernel side decides when a piece may be delivered. What it sends back is tried again: nothing is delivered twice,
// and nothing out of turn.
#pragma once

#include <bpf/abi/punt.h>

#include <base/unique_fd.hpp>
#include <fallback-proxy/access_log.hpp>
#include <fallback-proxy/body.hpp>
#include <fallback-proxy/counters.hpp>
#include <fallback-proxy/heads.hpp>
#include <fallback-proxy/message.hpp>
#include <fallback-proxy/policy_store.hpp>
#include <fallback-proxy/ring.hpp>
#include <fallback-proxy/verdict.hpp>
#include <memory>
#include <optional>

namespace shunt::proxy {

// The page of the kernel side that the proxy writes, mapped.
class PuntPage {
 public:
  static Result<std::shared_ptr<PuntPage>> map(UniqueFd map);
  ~PuntPage();
  PuntPage(const PuntPage&) = delete;
  PuntPage& operator=(const PuntPage&) = delete;

  int fd() const { return fd_.get(); }
  void beat(bool alive);  // no heartbeat: nothing new comes
  void finish(uint32_t index, uint32_t epoch, uint32_t bytes);
  // What became of the message that is sent between the two calls; nothing, the kernel side has not seen it.
  void expect_outcome(uint32_t index);
  std::optional<sh_punt_status> outcome(uint32_t index) const;
  // The last epoch in which the server ended before it had answered; 0: none.
  uint32_t ended(uint32_t index) const;

 private:
  explicit PuntPage(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
  sh_punt_page* page_ = nullptr;
};

struct ChannelSockets {
  uint32_t index = 0;
  UniqueFd socket, other;  // the channel, and the end that keeps it connected
  std::shared_ptr<PuntPage> page;
};

class Channel;

class ChannelHome {
 public:
  virtual ~ChannelHome() = default;
  virtual Ring& ring() = 0;
  virtual Milliseconds now() = 0;
  virtual const Config& config() = 0;
  virtual PolicyStore::Compiled channel_policies() = 0;
  virtual void wait_for_turn(Channel& channel) = 0;  // calls its retry(), soon
  virtual AccessLog& access_log() = 0;
  virtual Counters& counters() = 0;
};

class Channel final : private Operation {
 public:
  Channel(ChannelHome& home, ChannelSockets sockets);
  ~Channel() override;

  void start();
  void retry();                       // what had to wait
  void tick();                        // looks at the clock
  void stop();                        // wakes the kernel's part of it, so that it ends
  void retire() { retired_ = true; }  // others have come: it ends when it has nothing to do

  bool idle() const { return state_ == State::idle; }
  bool gone() const { return gone_ && !pending(); }  // nobody has anything of it any more

 private:
  enum class State : uint8_t {
    idle,     // bound to nobody
    head,     // of a request, or the beginning of one
    body,     // is being collected
    inject,   // the request is on its way to the server
    answer,   // an answer of ours is on its way to the client
    discard,  // of the body of a request that was answered
    hang_up,  // answered for the last time: what comes is thrown away
  };
  enum class Step : uint8_t { wait, again };

  void completed(int result) override;  // so many bytes of frames have come
  void advance();
  enum class Frame : uint8_t { incomplete, of_client, returned };
  Frame take_frame();
  void begin_epoch(const sh_punt_head& head);
  void forget();

  Step step();
  Step read_head();
  Step take_request();
  Step collect_body();
  Step begin_inject();
  Step inject();
  Step answer();
  Step discard();
  Step refuse(int status, std::string_view why, bool close);
  Step finish_request();
  void promise_body();  // 100 Continue
  void look_for_end();
  void answer_for_server();
  Step wait_for_turn();

  std::optional<sh_punt_status> send(sh_punt_kind kind, uint32_t flags, std::string_view bytes);
  void break_off(std::string_view why);
  void finish(size_t bytes);
  Milliseconds since(Milliseconds moment) const { return home_.now() - moment; }
  void record(Outcome outcome, std::string_view reason, int status);
  void record_end(std::string_view reason, int status);
  void tell(int status);
  void log(Outcome outcome, std::string_view reason, int status);

  ChannelHome& home_;
  ChannelSockets sockets_;
  State state_ = State::idle;
  bool gone_ = false;
  bool retired_ = false;
  bool waits_for_turn_ = false;  // retry() will be called

  Buffer frames_;         // as received; while it waits the kernel has what is behind them
  sh_punt_head first_{};  // of this epoch
  uint32_t epoch_ = 0;
  uint32_t finished_ = 0;  // bytes of this epoch
  bool released_ = true;   // nothing is bound, as far as is known here

  Buffer in_;         // the client's bytes that are not dealt with
  Buffer out_;        // what is to be injected or answered
  size_t taken_ = 0;  // bytes of in_ that belong to the request under way, and are no longer there
  RequestReader request_;
  BodyRelay body_;
  Verdict verdict_;
  std::shared_ptr<const Policies> policies_;
  std::optional<Relation> relation_;
  bool begun_ = false;  // a part of it was injected
  bool to_head_ = false;
  bool closes_ = false;                        // the answer is the last one
  uint32_t answer_flags_ = 0;                  // of enum sh_punt_flags
  uint32_t ended_ = 0, noticed_ = 0;           // the last epoch whose server has ended; seen by the clock's last look
  bool promised_ = false;                      // 100 Continue was sent, or need not be
  std::string method_, host_, path_, judged_;  // for the log; the head's bytes are gone by then

  Milliseconds since_{0};  // when this state began
  Milliseconds asked_{0};  // when the kernel side was last asked whether the client still is there
  std::chrono::steady_clock::time_point began_;
};

}  // namespace shunt::proxy
