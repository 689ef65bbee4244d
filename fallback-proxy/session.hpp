// One client connection: its requests one after another, each read, judged, and forwarded over a connection of its own
// to a server. Idle server connections stay with their client: no other client's request is ever sent on them.
#pragma once

#include <fallback-proxy/access_log.hpp>
#include <fallback-proxy/body.hpp>
#include <fallback-proxy/counters.hpp>
#include <fallback-proxy/heads.hpp>
#include <fallback-proxy/message.hpp>
#include <fallback-proxy/policy_store.hpp>
#include <fallback-proxy/sources.hpp>
#include <fallback-proxy/stream.hpp>
#include <fallback-proxy/verdict.hpp>
#include <memory>
#include <span>

namespace shunt::proxy {

// What all threads share, of one configuration.
struct Runtime {
  Config config;
  std::shared_ptr<const Policies> policies;
  // By listener: the rules without a route, then those of each route.
  std::vector<std::vector<HeaderRules>> headers;
};

class Session;

class SessionHome {
 public:
  virtual ~SessionHome() = default;
  virtual std::shared_ptr<const Runtime> runtime() = 0;
  virtual Milliseconds now() = 0;
  virtual bool stopping() = 0;
  virtual Stream& new_stream() = 0;
  virtual AccessLog& access_log() = 0;
  virtual Counters& counters() = 0;
  virtual size_t next_upstream(size_t listener) = 0;  // round robin
  virtual PolicyStore::Compiled channel_policies() = 0;
  virtual void session_done(Session& session) = 0;  // may end the session's life
};

class Session final : public StreamOwner {
 public:
  Session(SessionHome& home, Stream& client, Origin origin);

  void start();
  void stream_changed() override;
  void tick();  // looks at the clock
  void stop();  // ends as soon as no request is under way
  void end();   // at once

  // Of the list of the home.
  size_t place = 0;

 private:
  enum class State : uint8_t { head, exchange, discard, flush, linger, done };
  enum class Step : uint8_t { wait, again };

  void advance();
  Step step();
  Step read_head();
  enum class Readiness : uint8_t { ready, not_yet, no_policy, no_client };
  Step take_request();
  Readiness relate();
  Readiness relate_steered();
  Readiness relate_to(uint32_t generation);
  Step refuse_unjudged(Readiness policy);
  Step begin_exchange(const HeaderRules& rules);
  Step exchange();
  bool open_upstream();
  bool move_request_body();
  bool may_reopen() const;
  Step move_response();
  Step read_response_head();
  Step take_response_head();
  Step move_response_body();
  Step finish_exchange();
  Step discard();
  Step flush();
  Step linger();

  void end_late_head();
  Step answer(int status, std::string_view why, bool close);
  Step fail(int status, std::string_view why);  // the exchange, or what is left of it
  Step truncate(std::string_view why);
  void drop_upstream(bool reset);
  void finish(bool reset);
  void note_progress();
  Milliseconds since(Milliseconds moment) { return home_.now() - moment; }
  const HeaderRules& header_rules() const;
  std::span<const Endpoint> upstreams() const;
  void begin_record();
  void end_record(Outcome outcome, std::string_view reason, int status);

  SessionHome& home_;
  Stream& client_;
  Stream* upstream_ = nullptr;
  const Origin origin_;
  HeaderRules steered_rules_;  // of a steered connection
  State state_ = State::head;
  bool waits_for_policy_ = false;
  std::shared_ptr<const Runtime> runtime_;    // of the request under way
  std::shared_ptr<const Policies> policies_;  // of a steered connection
  uint32_t server_ = 0;                       // likewise: its number in them
  Relation relation_;
  const Policies* related_ = nullptr;  // whose relation_ is

  RequestReader request_;
  ResponseReader response_;
  BodyRelay request_body_;
  BodyRelay response_body_;

  // Of the request under way; what is needed of its head after the bytes are gone.
  int minor_ = 1;
  bool to_head_ = false;
  bool keep_alive_ = false;  // would the client's connection go on after this?
  bool expects_continue_ = false;
  bool head_answered_ = false;  // the final response's head stands in the client's buffer
  bool upstream_keeps_ = false;
  bool speaks_1_1_ = true;        // with the server
  bool reused_ = false;           // the server's connection served a request before
  bool cut_request_ = false;      // the server takes no more of it
  bool close_delimited_ = false;  // the client learns the end of the response from our close alone
  size_t upstreams_tried_ = 0;
  Endpoint upstream_endpoint_;
  uint64_t upstream_sent_before_ = 0;

  Milliseconds progress_at_{0};
  Milliseconds began_{0};
  uint64_t bytes_seen_ = 0;
  bool recording_ = false;
  std::chrono::steady_clock::time_point record_began_;
  AccessRecord record_;
  Verdict verdict_;
};

}  // namespace shunt::proxy
