#include <sys/mman.h>
#include <sys/socket.h>

#include <fallback-proxy/channel.hpp>

namespace shunt::proxy {
namespace {

constexpr size_t kReadBytes = 64 << 10;
constexpr Milliseconds kAskEvery{1000};
constexpr Milliseconds kReleaseAfter{100};  // a connection that punts again soon keeps its channel
constexpr Milliseconds kHangUpAfter{2000};  // for the client to read the last answer
constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
// Without a body it is right for every method.
constexpr std::string_view kServerGone = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
constexpr std::string_view kServerGoneText = "the server has closed the connection";
constexpr std::string_view kOrderText = "it cannot be proved that all earlier responses have arrived";

uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

Result<std::shared_ptr<PuntPage>> PuntPage::map(UniqueFd map) {
  std::shared_ptr<PuntPage> page(new PuntPage(std::move(map)));
  void* at = mmap(nullptr, sizeof(sh_punt_page), PROT_READ | PROT_WRITE, MAP_SHARED, page->fd(), 0);
  if (at == MAP_FAILED) return unexpected(errno, "cannot map the page of the punt channels");
  page->page_ = static_cast<sh_punt_page*>(at);
  return page;
}

PuntPage::~PuntPage() {
  if (page_ != nullptr) munmap(page_, sizeof(*page_));
}

void PuntPage::beat(bool alive) {
  __atomic_store_n(&page_->heartbeat_ns, alive ? monotonic_ns() : 0, __ATOMIC_RELEASE);
}

void PuntPage::finish(uint32_t index, uint32_t epoch, uint32_t bytes) {
  __atomic_store_n(&page_->finished[index], uint64_t{epoch} << 32 | bytes, __ATOMIC_RELEASE);
}

Channel::Channel(ChannelHome& home, ChannelSockets sockets)
    : home_(home),
      sockets_(std::move(sockets)),
      frames_(kReadBytes),
      in_(kReadBytes),
      out_(kReadBytes),
      request_(home.config().limits.head_bytes),
      ended_(sockets_.page->ended(sockets_.index)) {}

Channel::~Channel() = default;

void PuntPage::expect_outcome(uint32_t index) { __atomic_store_n(&page_->outcomes[index], 0, __ATOMIC_RELAXED); }

std::optional<sh_punt_status> PuntPage::outcome(uint32_t index) const {
  const uint32_t said = __atomic_load_n(&page_->outcomes[index], __ATOMIC_ACQUIRE);
  if (said == 0) return std::nullopt;
  return static_cast<sh_punt_status>(said - 1);
}

uint32_t PuntPage::ended(uint32_t index) const { return __atomic_load_n(&page_->ended[index], __ATOMIC_ACQUIRE); }

void Channel::start() {
  frames_.reserve(kReadBytes);
  home_.ring().receive_later(*this, sockets_.socket.get(), frames_.tail(), frames_.room());
}

void Channel::stop() { shutdown(sockets_.socket.get(), SHUT_RDWR); }

void Channel::completed(int result) {
  if (result == -EINTR || result == -EAGAIN) return start();
  if (result <= 0 || gone_) {  // a channel ends with its proxy
    gone_ = true;
    return;
  }
  frames_.produced(static_cast<size_t>(result));
  bool more = false;
  for (Frame frame = take_frame(); frame != Frame::incomplete; frame = take_frame()) more |= frame == Frame::of_client;
  // What was returned is tried again when its time has come, not at once.
  if (more) advance();
  if (!gone_) start();
}

void Channel::retry() {
  waits_for_turn_ = false;
  advance();
}

Channel::Step Channel::wait_for_turn() {
  if (!std::exchange(waits_for_turn_, true)) home_.wait_for_turn(*this);
  return Step::wait;
}

// ---- frames ----

Channel::Frame Channel::take_frame() {
  sh_punt_head head{};
  if (frames_.size() < sizeof(head)) return Frame::incomplete;
  memcpy(&head, frames_.bytes().data(), sizeof(head));
  if (frames_.size() - sizeof(head) < head.bytes) {
    frames_.reserve(sizeof(head) + head.bytes - frames_.size());
    return Frame::incomplete;
  }
  const std::string_view bytes = frames_.bytes().substr(sizeof(head), head.bytes);
  if (head.kind == SH_PUNT_DATA) {
    if (head.epoch != epoch_ || released_) begin_epoch(head);
    in_.reserve(bytes.size());
    in_.append(bytes);
  }
  frames_.consume(sizeof(head) + head.bytes);
  return head.kind == SH_PUNT_DATA ? Frame::of_client : Frame::returned;
}

// The same epoch goes on if the client sent something just when the channel was about to be released.
void Channel::begin_epoch(const sh_punt_head& head) {
  const uint32_t finished = head.epoch == epoch_ ? finished_ : 0;
  forget();
  first_ = head;
  epoch_ = head.epoch;
  finished_ = finished;
  released_ = false;
  state_ = State::head;
  since_ = asked_ = home_.now();
}

void Channel::forget() {
  state_ = State::idle;
  finished_ = 0;
  in_.clear();
  out_.clear();
  in_.shrink(kReadBytes);
  out_.shrink(kReadBytes);
  taken_ = 0;
  request_.reset();
  relation_.reset();
  policies_.reset();
  begun_ = closes_ = promised_ = false;
  answer_flags_ = 0;
}

// What became of it: READY, it was delivered, or done; nothing, the channel is broken, and ends.
std::optional<sh_punt_status> Channel::send(sh_punt_kind kind, uint32_t flags, std::string_view bytes) {
  sh_punt_head head{};
  head.kind = kind;
  head.bytes = static_cast<uint32_t>(bytes.size());
  head.epoch = epoch_;
  head.flags = flags;
  iovec parts[] = {{&head, sizeof(head)}, {const_cast<char*>(bytes.data()), bytes.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = bytes.empty() ? 1 : 2;
  sockets_.page->expect_outcome(sockets_.index);
  const ssize_t sent = sendmsg(sockets_.socket.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == ENOMEM || errno == ENOBUFS)) return SH_PUNT_NOT_YET;
  auto outcome = sockets_.page->outcome(sockets_.index);
  // It had its target, which was closed in that moment: nothing of it has arrived.
  if (sent < 0 && errno == EPIPE && outcome == SH_PUNT_READY)
    return kind == SH_PUNT_ANSWER ? SH_PUNT_CLIENT_GONE : SH_PUNT_SERVER_GONE;
  if (sent == static_cast<ssize_t>(sizeof(head) + bytes.size()) && outcome) return outcome;
  gone_ = true;
  stop();
  return std::nullopt;
}

// ---- requests ----

void Channel::advance() {
  while (!gone_ && state_ != State::idle && step() == Step::again) {
  }
}

Channel::Step Channel::step() {
  switch (state_) {
    case State::idle:
      return Step::wait;
    case State::head:
      return read_head();
    case State::body:
      return collect_body();
    case State::inject:
      return inject();
    case State::answer:
      return answer();
    case State::discard:
      return discard();
    case State::hang_up:
      in_.clear();
      return Step::wait;
  }
  return Step::wait;
}

Channel::Step Channel::read_head() {
  if (in_.empty()) return Step::wait;
  const HeadState found = request_.read(in_.bytes());
  if (found == HeadState::incomplete) return Step::wait;
  began_ = std::chrono::steady_clock::now();
  verdict_ = {};
  method_ = request_.method();
  to_head_ = method_ == "HEAD";
  if (found == HeadState::refused) {
    host_ = path_ = judged_ = {};
    return refuse(request_.refusal().status, request_.refusal().why, true);
  }
  host_ = request_.host();
  path_ = request_.raw_target();
  judged_ = request_.simple() ? "simple" : l7::reason_name(request_.punt_reason());
  return take_request();
}

Channel::Step Channel::take_request() {
  auto [generation, policies, announced] = home_.channel_policies();
  // The kernel side has a newer policy, which is being compiled here. The head is read again then: its bytes may move.
  if (static_cast<int32_t>(generation - first_.generation) < 0) {
    if (since(since_) >= home_.config().timeouts.head) return refuse(503, "the proxy has no policy in time", true);
    request_.reset();
    return wait_for_turn();
  }
  if (policies != policies_ || !relation_) {
    policies_ = std::move(policies);
    relation_ =
        policies_ ? policies_->relation(first_.identity, first_.peer_identity, first_.server_port) : std::nullopt;
  }
  if (!relation_) return refuse(503, "the proxy does not know the policy", true);
  verdict_ = policies_->judge(*relation_, request_, in_.bytes());
  const uint64_t most = home_.config().channels.body_bytes;
  const bool too_long = request_.framing() == Framing::length && request_.content_length() > most;
  const auto output = !verdict_.allowed                        ? BodyOutput::nowhere
                      : request_.framing() == Framing::chunked ? BodyOutput::chunked
                                                               : BodyOutput::raw;
  body_.begin(request_.framing(), request_.content_length(), output, false);
  if (!verdict_.allowed) {
    // A client that waits for 100 may send the body or not after this.
    const bool close = !request_.keep_alive() || request_.expects_continue() || too_long;
    return refuse(403, "Access denied", close);
  }
  if (too_long) return refuse(413, "the body of a request that the proxy forwards is limited", true);
  promised_ = !request_.expects_continue();
  out_.reserve(request_head_bytes_max(request_, verdict_.rewrites));
  write_request_head(out_, request_, verdict_.rewrites, {.same_connection = true, .expect = false});
  taken_ = request_.head_bytes();
  in_.consume(taken_);
  state_ = State::body;
  since_ = home_.now();
  return Step::again;
}

// The whole body is here before the server gets the head: what it costs to hold is known, and nothing can stay behind.
Channel::Step Channel::collect_body() {
  const uint64_t most = home_.config().channels.body_bytes;
  for (;;) {
    const size_t before = in_.size();
    out_.reserve(std::max<size_t>(in_.size() * 2, 4096));
    const BodyState state = body_.move(in_, out_);
    taken_ += before - in_.size();
    if (state == BodyState::malformed) return refuse(400, "the body is malformed", true);
    if (body_.bytes() > most) return refuse(413, "the body of a request that the proxy forwards is limited", true);
    if (state == BodyState::done) return begin_inject();
    if (in_.size() == before) break;
  }
  if (!promised_) promise_body();
  return Step::wait;
}

// Clients send the body anyway when this does not come: it must not overtake an earlier response, so it is not insisted
// on.
void Channel::promise_body() {
  const auto sent = send(SH_PUNT_ANSWER, SH_PUNT_INTERIM, kContinue);
  promised_ = sent && *sent == SH_PUNT_READY;
  if (sent && *sent == SH_PUNT_NOT_YET) wait_for_turn();
}

Channel::Step Channel::begin_inject() {
  begun_ = false;
  state_ = State::inject;
  since_ = home_.now();
  return Step::again;
}

Channel::Step Channel::inject() {
  while (!out_.empty()) {
    const size_t bytes = std::min<size_t>(out_.size(), SH_PUNT_PIECE_BYTES);
    const uint32_t flags = begun_ ? 0 : SH_PUNT_BEGIN | (to_head_ ? SH_PUNT_TO_HEAD : 0);
    const auto sent = send(SH_PUNT_INJECT, flags, out_.bytes().substr(0, bytes));
    if (!sent) return Step::wait;
    if (*sent == SH_PUNT_NOT_YET) return wait_for_turn();
    if (*sent == SH_PUNT_CLIENT_GONE) {
      record(Outcome::failed, "the client left", 0);
      break_off({});
      return Step::wait;
    }
    if (*sent == SH_PUNT_SERVER_GONE) {
      answer_for_server();
      return Step::again;
    }
    if (*sent != SH_PUNT_READY) {
      break_off("a request could not be delivered");
      return Step::wait;
    }
    begun_ = true;
    out_.consume(bytes);
    since_ = home_.now();
  }
  record(Outcome::forwarded, {}, 0);
  return finish_request();
}

// Everything of the request was delivered, or will never be.
Channel::Step Channel::finish_request() {
  finish(std::exchange(taken_, 0));
  out_.clear();
  out_.shrink(kReadBytes);
  request_.reset();
  body_.begin(Framing::none, 0, BodyOutput::nowhere, false);  // nothing of it is counted with the next one
  state_ = State::head;
  since_ = home_.now();
  return Step::again;
}

void Channel::finish(size_t bytes) {
  finished_ += static_cast<uint32_t>(bytes);
  sockets_.page->finish(sockets_.index, epoch_, finished_);
}

// ---- answers ----

Channel::Step Channel::refuse(int status, std::string_view why, bool close) {
  record(status == 403   ? Outcome::denied
         : status >= 500 ? Outcome::failed
                         : Outcome::refused,
         status == 403 ? std::string_view(policy::reason_name(verdict_.reason)) : why, status);
  out_.clear();
  out_.reserve(kOwnResponseBytesMax);
  write_own_response(out_, status, why, to_head_, ResponseForm{request_.minor(), false, close});
  closes_ = close;
  answer_flags_ = 0;
  if (!close) {
    taken_ = request_.head_bytes();
    in_.consume(taken_);
  }
  state_ = State::answer;
  since_ = home_.now();
  return Step::again;
}

Channel::Step Channel::answer() {
  const auto sent = send(SH_PUNT_ANSWER, answer_flags_, out_.bytes());
  if (!sent) return Step::wait;
  if (*sent == SH_PUNT_NOT_YET) return wait_for_turn();
  if (*sent == SH_PUNT_SERVER_GONE) {
    answer_for_server();
    return Step::again;
  }
  if (*sent == SH_PUNT_ANSWERED) {  // it ended behind its last response: the client may see that now
    finish(1);
    return finish_request();
  }
  if (*sent != SH_PUNT_READY) {
    std::string_view why;
    if (*sent == SH_PUNT_UNPROVED) why = ended_ == epoch_ ? kServerGoneText : kOrderText;
    if (!why.empty()) record_end(why, 0);
    break_off(why);
    return Step::wait;
  }
  if (answer_flags_ != 0) record_end(kServerGoneText, 502);
  out_.clear();
  state_ = closes_ || ended_ == epoch_ ? State::hang_up : State::discard;
  since_ = home_.now();
  return Step::again;
}

Channel::Step Channel::discard() {
  const size_t before = in_.size();
  const BodyState state = body_.move(in_, out_);
  taken_ += before - in_.size();
  if (state == BodyState::done) return finish_request();
  if (state == BodyState::malformed || body_.bytes() > home_.config().channels.body_bytes)
    break_off("the body of a request that was refused is malformed, or too long");
  return Step::wait;
}

// ---- the end ----

// The server of the connection that is bound here, or that was bound here for this, has ended. What was on its way from
// the client by then comes first, and what is left of a request that was answered.
void Channel::look_for_end() {
  const uint32_t ended = sockets_.page->ended(sockets_.index);
  if (ended == ended_ || std::exchange(noticed_, ended) != ended || state_ == State::discard) return;
  ended_ = ended;
  if (ended != epoch_ || released_) {
    sh_punt_head head{};
    head.epoch = ended;
    begin_epoch(head);
  }
  if (state_ == State::hang_up || state_ == State::answer) return;
  answer_for_server();
  advance();
}

// In place of the first response that the server owes, if it owes one.
void Channel::answer_for_server() {
  const bool reads = state_ == State::head;
  const bool in_hand = (reads && !in_.empty()) || state_ == State::body || (state_ == State::inject && !begun_);
  if (reads && in_hand) {  // they are still those of the request before
    method_ = host_ = path_ = judged_ = {};
    began_ = std::chrono::steady_clock::now();
  }
  out_.clear();
  out_.append(kServerGone);
  answer_flags_ = SH_PUNT_GONE | (in_hand ? SH_PUNT_IN_HAND : 0);
  closes_ = true;
  state_ = State::answer;
  since_ = home_.now();
}

// `why`: the connection is to be reset; empty: it is gone.
void Channel::break_off(std::string_view why) {
  if (!why.empty()) (void)send(SH_PUNT_BREAK, 0, {});
  in_.clear();
  state_ = State::hang_up;
  since_ = asked_ = home_.now() - kAskEvery;
}

void Channel::tick() {
  if (retired_ && state_ == State::idle) stop();
  if (!gone_) look_for_end();
  if (gone_ || released_) return;
  const Timeouts& times = home_.config().timeouts;
  const bool done = state_ == State::head && in_.empty();
  if (done) {
    if (since(since_) < kReleaseAfter) return;
    // Or the client has taken its connection back, or is sending more just now: then the epoch goes on.
    if (!send(SH_PUNT_RELEASE, 0, {})) return;
    released_ = true;
    state_ = State::idle;
    return;
  }
  if (since(asked_) >= kAskEvery) {
    asked_ = home_.now();
    const auto asked = send(SH_PUNT_ASK, 0, {});
    if (asked && *asked == SH_PUNT_CLIENT_GONE) {
      const auto released = send(SH_PUNT_RELEASE, 0, {});
      if (!released || *released != SH_PUNT_READY) return;  // it is being reset
      forget();
      released_ = true;
      return;
    }
  }
  const Milliseconds age = since(since_);
  if (state_ == State::head && age > times.head) {
    (void)refuse(408, "the head did not arrive in time", true);
  } else if ((state_ == State::body || state_ == State::discard) && age > times.exchange) {
    break_off("the body did not arrive in time");
  } else if ((state_ == State::inject || state_ == State::answer) && age > times.exchange) {
    break_off("its turn did not come in time");
  } else if (state_ == State::hang_up && age > kHangUpAfter) {
    break_off("answered for the last time");
  }
  advance();
}

void Channel::record(Outcome outcome, std::string_view reason, int status) {
  home_.counters().count(Source::channel, outcome, status, body_.bytes(), 0);
  if (outcome != Outcome::forwarded) tell(status);
  log(outcome, reason, status);
}

// A request that was forwarded or refused before has been counted; what became of it then has a line of its own.
void Channel::record_end(std::string_view reason, int status) {
  if ((answer_flags_ & SH_PUNT_IN_HAND) != 0) return record(Outcome::failed, reason, status);
  tell(status);
  log(Outcome::failed, reason, status);
}

// What the server answers, the kernel side sees and tells.
void Channel::tell(int status) {
  if (!home_.config().tell_responses || !relation_) return;
  policies_->tell(home_.counters().responses, *relation_, status, std::chrono::steady_clock::now() - began_);
}

void Channel::log(Outcome outcome, std::string_view reason, int status) {
  AccessLog& log = home_.access_log();
  const bool always = outcome != Outcome::forwarded || !verdict_.mismatched.empty();
  if (!log.enabled() || (!always && !log.sampled())) return;
  AccessRecord record;
  Endpoint client;
  std::copy(std::begin(first_.client_addr), std::end(first_.client_addr), client.address.begin());
  client.port = first_.client_port;
  if (client.port != 0) record.client = client.to_string();  // of a channel that was bound for a server's end: unknown
  record.listener = "channel";
  record.method = method_;
  record.host = host_;
  record.path = path_;
  record.status = status;
  record.verdict = outcome_name(outcome);
  record.reason = reason;
  record.judged = judged_;
  record.mismatched = verdict_.mismatched;
  record.request_bytes = body_.bytes();
  if (relation_) {
    record.from = policies_->title(relation_->client);
    record.to = policies_->title(relation_->server);
    record.rule = policies_->rule_text(verdict_);
  }
  const auto took = std::chrono::steady_clock::now() - began_;
  record.duration_us = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
  log.write(record);
}

}  // namespace shunt::proxy
