#include <fallback-proxy/session.hpp>

namespace shunt::proxy {
namespace {

constexpr Milliseconds kLinger{2000};  // for the client to read what was said before the connection is gone
constexpr size_t kRouteNone = 0;
constexpr std::string_view kSteered = "steered";  // in place of a listener's name

// Does "/v1" or "/v1/" cover the path? Segments are whole.
bool covers(const std::string& route, std::string_view target) {
  const std::string_view path = target.substr(0, target.find('?'));
  if (!path.starts_with(route)) return false;
  return route.ends_with('/') || path.size() == route.size() || path[route.size()] == '/';
}

}  // namespace

Session::Session(SessionHome& home, Stream& client, Origin origin)
    : home_(home),
      client_(client),
      origin_(std::move(origin)),
      runtime_(home.runtime()),
      request_(runtime_->config.limits.head_bytes),
      response_(runtime_->config.limits.head_bytes),
      progress_at_(home.now()) {
  // The server sees the proxy's address. A list that the client sent goes on in this line.
  if (origin_.server) steered_rules_.add.push_back({"X-Forwarded-For", format_address(origin_.client.address.data())});
}

void Session::start() { advance(); }
void Session::stream_changed() { advance(); }

void Session::note_progress() {
  uint64_t bytes = client_.sent_bytes() + client_.received_bytes();
  if (upstream_ != nullptr) bytes += upstream_->sent_bytes() + upstream_->received_bytes();
  if (bytes != bytes_seen_) progress_at_ = home_.now();
  bytes_seen_ = bytes;
}

void Session::advance() {
  note_progress();
  if (client_.receive_failed() || client_.send_failed()) {
    if (state_ == State::exchange) end_record(Outcome::failed, "the client left", 0);
    finish(true);
  }
  while (state_ != State::done && step() == Step::again) {
  }
  if (state_ == State::done) return home_.session_done(*this);
  client_.flush();
  client_.receive();
  if (upstream_ == nullptr) return;
  upstream_->flush();
  upstream_->receive();
}

Session::Step Session::step() {
  switch (state_) {
    case State::head:
      return read_head();
    case State::exchange:
      return exchange();
    case State::discard:
      return discard();
    case State::flush:
      return flush();
    case State::linger:
      return linger();
    case State::done:
      return Step::wait;
  }
  return Step::wait;
}

Session::Step Session::read_head() {
  const bool idle_upstream_moved =
      upstream_ != nullptr && (upstream_->ended() || upstream_->receive_failed() || !upstream_->in.empty());
  if (idle_upstream_moved) drop_upstream(false);
  if (client_.in.empty()) {
    if (!client_.ended() && !home_.stopping()) return Step::wait;
    state_ = State::flush;
    return Step::again;
  }
  // While earlier responses are being sent there may be no room for an answer.
  if (!client_.reserve_out(kOwnResponseBytesMax)) return Step::wait;
  if (began_.count() == 0) {
    began_ = home_.now();
    // What is refused from here on has none of the bytes of the request before.
    request_body_.begin(Framing::none, 0, BodyOutput::nowhere, false);
    response_body_.begin(Framing::none, 0, BodyOutput::raw, false);
  }
  const HeadState found = request_.read(client_.in.bytes());
  if (found == HeadState::complete) return take_request();
  if (found == HeadState::refused) {
    verdict_ = {};
    begin_record();
    end_record(Outcome::refused, request_.refusal().why, request_.refusal().status);
    minor_ = 1;
    to_head_ = request_.method() == "HEAD";
    return answer(request_.refusal().status, request_.refusal().why, true);
  }
  if (client_.ended()) {
    state_ = State::flush;
    return Step::again;
  }
  // The reader ends this below a limit.
  if (client_.in.size() == client_.in.capacity()) client_.in.reserve(client_.in.capacity());
  return Step::wait;
}

const HeaderRules& Session::header_rules() const {
  if (origin_.server) return steered_rules_;
  const std::vector<HeaderRules>& all = runtime_->headers[origin_.listener];
  const std::vector<Route>& routes = runtime_->config.listeners[origin_.listener].routes;
  for (size_t i = 0; i < routes.size(); i++) {
    if (covers(routes[i].path, request_.target())) return all[i + 1];
  }
  return all[kRouteNone];
}

std::span<const Endpoint> Session::upstreams() const {
  if (origin_.server) return {&origin_.called, 1};
  return runtime_->config.listeners[origin_.listener].upstreams;
}

// Who the two ends are to the policies in force.
Session::Readiness Session::relate() {
  if (origin_.server) return relate_steered();
  if (related_ == runtime_->policies.get()) return Readiness::ready;
  relation_ = runtime_->policies->relation(origin_.listener, origin_.client.address);
  related_ = runtime_->policies.get();
  return Readiness::ready;
}

// By what shuntd has put in force, and by nothing older. Without a policy there is nothing to judge.
Session::Readiness Session::relate_steered() {
  PolicyStore::Compiled now = home_.channel_policies();
  const SteeredServer::Who server = origin_.server->who();
  if (now.generation != now.announced) return Readiness::not_yet;
  if (now.generation == 0) {
    policies_.reset();
    related_ = nullptr;
    return Readiness::ready;
  }
  if (!now.policies) return Readiness::no_policy;
  if (server.generation != now.generation) return Readiness::not_yet;
  if (now.policies == policies_ && server.identity == server_ && related_ != nullptr) return Readiness::ready;
  related_ = nullptr;
  policies_ = std::move(now.policies);
  server_ = server.identity;
  return relate_to(now.generation);
}

// Of `server_`: the client by the number that the kernel side gives it in this policy, or by its address.
Session::Readiness Session::relate_to(uint32_t generation) {
  const auto client = origin_.server->client_of(client_.socket());
  if (!client || client->from == SH_STEERED_UNKNOWN) return Readiness::no_client;
  if (client->from == SH_STEERED_LOCAL && client->generation != generation) return Readiness::not_yet;
  if (client->from == SH_STEERED_LOCAL && client->identity == SH_IDENTITY_ANY) return Readiness::no_client;
  const uint16_t port = origin_.server->port();
  const auto found = client->from == SH_STEERED_LOCAL ? policies_->relation(client->identity, server_, port)
                                                      : policies_->relation_to(server_, port, origin_.client.address);
  if (!found) return Readiness::no_policy;
  relation_ = *found;
  related_ = policies_.get();
  return Readiness::ready;
}

// The head is read again when the policy is here: its bytes may move.
Session::Step Session::refuse_unjudged(Readiness policy) {
  if (policy == Readiness::not_yet && since(began_) < runtime_->config.timeouts.head) {
    waits_for_policy_ = true;
    request_.reset();
    return Step::wait;
  }
  const std::string_view why = policy == Readiness::not_yet     ? "the proxy has no policy in time"
                               : policy == Readiness::no_client ? "the proxy does not know who the client is"
                                                                : "the proxy does not know the policy";
  begin_record();
  end_record(Outcome::failed, why, 503);
  return answer(503, why, true);
}

Session::Step Session::take_request() {
  if (auto runtime = home_.runtime(); runtime != runtime_) runtime_ = std::move(runtime);
  minor_ = request_.minor();
  to_head_ = request_.method() == "HEAD";
  waits_for_policy_ = false;
  if (const Readiness policy = relate(); policy != Readiness::ready) return refuse_unjudged(policy);
  verdict_ = Verdict{};
  verdict_.allowed = true;  // where there is no policy
  if (related_ != nullptr) verdict_ = related_->judge(relation_, request_, client_.in.bytes());
  keep_alive_ = request_.keep_alive();
  expects_continue_ = request_.expects_continue();
  head_answered_ = cut_request_ = close_delimited_ = upstream_keeps_ = false;
  if (!verdict_.allowed || !verdict_.mismatched.empty() || home_.access_log().sampled())
    begin_record();
  else
    record_began_ = std::chrono::steady_clock::now();
  if (verdict_.allowed && verdict_.rewrites.empty()) return begin_exchange(header_rules());
  if (verdict_.allowed) return begin_exchange(merged(verdict_.rewrites, header_rules()));
  end_record(Outcome::denied, policy::reason_name(verdict_.reason), 403);
  // A client that waits for 100 may send the body or not after this: nobody could tell where the next request begins.
  const bool known_end =
      request_.framing() != Framing::length || request_.content_length() <= runtime_->config.limits.discard_bytes;
  const bool close = !keep_alive_ || expects_continue_ || !known_end;
  request_body_.begin(request_.framing(), request_.content_length(), BodyOutput::nowhere, false);
  const size_t head_bytes = request_.head_bytes();
  answer(403, "Access denied", close);
  client_.in.consume(head_bytes);
  if (!close) state_ = State::discard;
  return Step::again;
}

Session::Step Session::begin_exchange(const HeaderRules& rules) {
  const bool reusable = upstream_ != nullptr && upstream_->connected() && upstream_->flushed();
  reused_ = reusable;
  upstreams_tried_ = 0;
  state_ = State::exchange;
  const bool chunked = request_.framing() == Framing::chunked;
  request_body_.begin(request_.framing(), request_.content_length(), chunked ? BodyOutput::chunked : BodyOutput::raw,
                      false);
  if (!reusable) {
    drop_upstream(false);
    if (!open_upstream()) {
      client_.in.consume(request_.head_bytes());
      return fail(502, "no server takes a connection");
    }
  }
  upstream_sent_before_ = upstream_->sent_bytes();
  upstream_->out.reserve(request_head_bytes_max(request_, rules));
  write_request_head(upstream_->out, request_, rules);
  speaks_1_1_ = request_.has_host();
  response_.reset(to_head_);
  client_.in.consume(request_.head_bytes());
  progress_at_ = began_ = home_.now();
  return Step::again;
}

// Tries the configured servers, each once; what was to be sent goes along. False: none left.
bool Session::open_upstream() {
  const std::span<const Endpoint> endpoints = upstreams();
  while (upstreams_tried_ < endpoints.size()) {
    upstream_endpoint_ =
        origin_.server ? origin_.called : endpoints[home_.next_upstream(origin_.listener) % endpoints.size()];
    upstreams_tried_++;
    Stream& fresh = home_.new_stream();
    const auto begun = fresh.connect(upstream_endpoint_, *this);
    if (!begun) {
      fresh.close();
      continue;
    }
    if (upstream_ != nullptr) std::swap(fresh.out, upstream_->out);
    drop_upstream(false);
    upstream_ = &fresh;
    upstream_sent_before_ = 0;
    bytes_seen_ = 0;
    began_ = home_.now();
    return true;
  }
  return false;
}

// Nothing of this request was sent yet: on a connection that the server had closed meanwhile, or on none.
bool Session::may_reopen() const {
  return upstream_->sent_bytes() == upstream_sent_before_ && !upstream_->sending() &&
         (reused_ || upstream_->connect_error() != 0);
}

Session::Step Session::exchange() {
  const bool broken = upstream_->connect_error() != 0 || upstream_->send_failed();
  const bool gone = upstream_->in.empty() && (upstream_->ended() || upstream_->receive_failed());
  if ((broken || gone) && !head_answered_ && may_reopen()) {
    reused_ = false;
    return open_upstream() ? Step::again : fail(502, "no server takes a connection");
  }
  if (upstream_->send_failed() && !cut_request_) {
    // It may have answered before.
    cut_request_ = true;
    upstream_->out.clear();
  }
  if (!cut_request_ && !request_body_.done() && !move_request_body()) return Step::again;
  return move_response();
}

// False: it was malformed or cut short, and the exchange is over.
bool Session::move_request_body() {
  const size_t before = client_.in.size();
  const BodyState state = request_body_.move(client_.in, upstream_->out);
  if (state == BodyState::malformed) {
    fail(400, "the body is malformed");
    return false;
  }
  const bool cut = state == BodyState::more && client_.ended() && client_.in.size() == before && upstream_->flushed();
  if (!cut) return true;
  end_record(Outcome::failed, "the client ended within the body", 0);
  drop_upstream(true);
  state_ = State::flush;
  return false;
}

Session::Step Session::move_response() {
  if (!head_answered_) {
    const Step head = read_response_head();
    if (!head_answered_ || state_ != State::exchange) return head;
  }
  return move_response_body();
}

Session::Step Session::read_response_head() {
  const HeadState found = upstream_->in.empty() ? HeadState::incomplete : response_.read(upstream_->in.bytes());
  if (found == HeadState::refused) return fail(502, response_.why());
  if (found == HeadState::complete) return take_response_head();
  if (upstream_->ended() || upstream_->receive_failed()) return fail(502, "the server closed without a response");
  Buffer& in = upstream_->in;
  if (!in.empty() && in.size() == in.capacity()) in.reserve(in.capacity());
  return Step::wait;
}

Session::Step Session::take_response_head() {
  if (!client_.reserve_out(response_head_bytes_max(response_))) return Step::wait;
  ResponseForm form{minor_, false, false};
  if (response_.interim()) {
    if (minor_ == 1) write_response_head(client_.out, response_, form);
    upstream_->in.consume(response_.head_bytes());
    response_.reset(to_head_);
    return Step::again;
  }
  const bool open_ended = response_.framing() == Framing::chunked || response_.framing() == Framing::until_close;
  form.chunked = open_ended && minor_ == 1;
  close_delimited_ = open_ended && minor_ == 0;
  // What is left of the request may never come, or be no longer wanted.
  form.close = !keep_alive_ || close_delimited_ || cut_request_ || !request_body_.done() || home_.stopping();
  keep_alive_ = !form.close;
  upstream_keeps_ = response_.keep_alive() && speaks_1_1_;
  record_.status = response_.status();
  write_response_head(client_.out, response_, form);
  response_body_.begin(response_.framing(), response_.content_length(),
                       form.chunked ? BodyOutput::chunked : BodyOutput::raw, true);
  upstream_->in.consume(response_.head_bytes());
  head_answered_ = true;
  return Step::again;
}

Session::Step Session::move_response_body() {
  const size_t before = upstream_->in.size();
  const BodyState state = response_body_.move(upstream_->in, client_.out);
  if (state == BodyState::done) return finish_exchange();
  if (state == BodyState::malformed) return truncate("the server's body is malformed");
  if (upstream_->in.size() != before) return Step::again;
  if (upstream_->receive_failed() && (upstream_->in.empty() || client_.flushed()))
    return truncate("the server broke off");
  if (!upstream_->ended()) return Step::wait;
  if (upstream_->in.empty() && response_body_.ends_with_input()) {
    return response_body_.move(upstream_->in, client_.out) == BodyState::done ? finish_exchange() : Step::wait;
  }
  return upstream_->in.empty() || client_.flushed() ? truncate("the server closed within the body") : Step::wait;
}

Session::Step Session::finish_exchange() {
  end_record(Outcome::forwarded, {}, record_.status);
  const bool request_done = request_body_.done() && !cut_request_;
  const bool keep_upstream =
      upstream_keeps_ && request_done && upstream_->flushed() && upstream_->in.empty() && !upstream_->ended();
  if (!keep_upstream) drop_upstream(!request_done);
  if (!keep_alive_ || !request_done) {
    state_ = State::flush;
    return Step::again;
  }
  state_ = State::head;
  request_.reset();
  began_ = Milliseconds(0);
  client_.in.shrink(kBufferBytes);
  return Step::again;
}

Session::Step Session::discard() {
  const BodyState state = request_body_.move(client_.in, client_.out);
  if (state == BodyState::more && !client_.ended() && request_body_.bytes() <= runtime_->config.limits.discard_bytes)
    return Step::wait;
  state_ = state == BodyState::done ? State::head : State::flush;
  request_.reset();
  began_ = Milliseconds(0);
  return Step::again;
}

Session::Step Session::flush() {
  if (!client_.flushed()) return Step::wait;
  if (client_.ended()) {
    finish(false);
    return Step::again;
  }
  client_.shut_down_sending();
  state_ = State::linger;
  began_ = home_.now();
  return Step::again;
}

// Closing a socket with unread bytes resets it, and the client may lose what it was told.
Session::Step Session::linger() {
  client_.in.consume(client_.in.size());
  if (!client_.ended()) return Step::wait;
  finish(false);
  return Step::again;
}

// There must be room for it.
Session::Step Session::answer(int status, std::string_view why, bool close) {
  const bool closing = close || home_.stopping();
  write_own_response(client_.out, status, why, to_head_, ResponseForm{minor_, false, closing});
  if (closing) state_ = State::flush;
  return Step::again;
}

Session::Step Session::fail(int status, std::string_view why) {
  if (head_answered_) return truncate(why);
  end_record(Outcome::failed, why, status);
  const bool next_begins_here = request_body_.done() && keep_alive_;
  drop_upstream(true);
  head_answered_ = true;
  if (!client_.reserve_out(kOwnResponseBytesMax)) {
    state_ = State::flush;
    return Step::again;
  }
  answer(status, why, !next_begins_here);
  if (state_ == State::exchange) {
    state_ = State::head;
    request_.reset();
    began_ = Milliseconds(0);
  }
  return Step::again;
}

// The client has a part of a response, and must not take it for the whole.
Session::Step Session::truncate(std::string_view why) {
  end_record(Outcome::failed, why, record_.status);
  drop_upstream(true);
  if (close_delimited_) {
    finish(true);
  } else {
    state_ = State::flush;
  }
  return Step::again;
}

void Session::tick() {
  const Timeouts& times = runtime_->config.timeouts;
  bool late = false;
  switch (state_) {
    case State::head:
      if (waits_for_policy_) return advance();
      if (began_.count() != 0 && since(began_) <= times.head) break;
      if (began_.count() != 0 && client_.reserve_out(kOwnResponseBytesMax)) return end_late_head();
      late = since(progress_at_) > (client_.flushed() ? times.idle : times.exchange);
      break;
    case State::exchange:
      if (upstream_->connecting() && since(began_) > times.connect) {
        if (!open_upstream()) fail(504, "no server took the connection in time");
        return advance();
      }
      if (since(progress_at_) > times.exchange) {
        fail(504, "the server did not answer in time");
        progress_at_ = home_.now();
        return advance();
      }
      break;
    case State::discard:
    case State::flush:
      late = since(progress_at_) > times.exchange;
      break;
    case State::linger:
      late = since(began_) > kLinger;
      break;
    case State::done:
      break;
  }
  if (!late) return;
  finish(state_ != State::head && state_ != State::linger);
  home_.session_done(*this);
}

void Session::end_late_head() {
  minor_ = 1;
  to_head_ = false;
  begin_record();
  end_record(Outcome::refused, "the head did not arrive in time", 408);
  answer(408, "the head did not arrive in time", true);
  advance();
}

void Session::stop() { advance(); }

void Session::end() {
  if (state_ == State::exchange) end_record(Outcome::failed, "the proxy was stopped", 0);
  finish(true);
  home_.session_done(*this);
}

void Session::begin_record() {
  record_began_ = std::chrono::steady_clock::now();
  if (!home_.access_log().enabled()) return;
  recording_ = true;
  record_.client = origin_.client.to_string();
  record_.method = request_.method();
  record_.host = request_.host();
  record_.path = request_.raw_target();
  record_.judged = request_.simple() ? "simple" : l7::reason_name(request_.punt_reason());
  if (!request_.simple() && request_.punt_reason() == L7_R_NONE) record_.judged = "path";
}

void Session::end_record(Outcome outcome, std::string_view reason, int status) {
  const bool wanted = std::exchange(recording_, false);
  home_.counters().count(origin_.server ? Source::steered : Source::listener, outcome, status, request_body_.bytes(),
                         response_body_.bytes());
  const auto took = std::chrono::steady_clock::now() - record_began_;
  if (runtime_->config.tell_responses && related_ != nullptr)
    related_->tell(home_.counters().responses, relation_, status, took);
  if (!home_.access_log().enabled() || (!wanted && outcome == Outcome::forwarded)) return;
  record_.listener = origin_.server ? kSteered : std::string_view(runtime_->config.listeners[origin_.listener].name);
  if (related_ != nullptr) {
    record_.from = related_->title(relation_.client);
    record_.to = related_->title(relation_.server);
    record_.rule = related_->rule_text(verdict_);
    record_.mismatched = verdict_.mismatched;
  }
  record_.status = status;
  record_.verdict = outcome_name(outcome);
  record_.reason = reason;
  record_.upstream = state_ == State::exchange && upstream_ != nullptr ? upstream_endpoint_.to_string() : std::string();
  record_.request_bytes = request_body_.bytes();
  record_.response_bytes = response_body_.bytes();
  if (!wanted) {
    record_.client = origin_.client.to_string();
    record_.method = record_.host = record_.path = {};
    record_.judged = {};
  }
  record_.duration_us = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
  home_.access_log().write(record_);
}

void Session::drop_upstream(bool reset) {
  if (upstream_ == nullptr) return;
  Stream* const stream = std::exchange(upstream_, nullptr);
  stream->close(reset);
  bytes_seen_ = 0;
}

void Session::finish(bool reset) {
  if (state_ == State::done) return;
  drop_upstream(reset);
  client_.close(reset);
  state_ = State::done;
}

}  // namespace shunt::proxy
