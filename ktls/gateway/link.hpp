// One application connection: a TLS connection with another gateway, and a plain one with a local client or server.
#pragma once

#include <array>
#include <base/event_loop.hpp>
#include <ktls/gateway/leg.hpp>
#include <ktls/gateway/shared.hpp>

namespace shunt::gateway {

class Link;

class LinkHome {
 public:
  virtual ~LinkHome() = default;
  virtual EventLoop& loop() = 0;
  virtual Shared& shared() = 0;
  virtual Milliseconds now() = 0;
  virtual std::span<uint8_t> scratch() = 0;     // memory for one call
  virtual void handshake_over(Link& link) = 0;  // well or not; of those from the mesh
  virtual void link_done(Link& link) = 0;       // its life ends after the callback under way
};

class Link {
 public:
  // From the mesh, if `service` is null; else from a local client, for a service of another host.
  Link(LinkHome& home, UniqueFd accepted, const Endpoint& client, const RemoteService* service);
  ~Link();

  void start();
  void tick();  // looks at the clock
  void give_up(Refusal refusal);
  // The bundles have changed. False: it is judged by these already, or not yet by any.
  bool recheck(Recheck& recheck);

  bool from_mesh() const { return service_ == nullptr; }

 private:
  enum class State : uint8_t { dialling, handshake, connecting, pumping, done };

  // A descriptor in the loop, with what it waits for.
  class Watch {
   public:
    Watch(Link& link) : link_(link) {}
    bool want(int fd, uint32_t events);  // false: the kernel is short of memory for it
    void forget();
    bool idle() const { return events_ == 0; }

   private:
    Link& link_;
    int fd_ = -1;
    uint32_t events_ = 0;
  };

  // One way of the pump. What the receiver had no room for waits in `rest`, and nothing more is received.
  struct Direction {
    std::string rest;
    size_t rest_sent = 0;
    bool received_end = false;
    bool sent_end = false;
    uint64_t bytes = 0;

    bool blocked() const { return rest_sent < rest.size(); }
  };

  void on_event(bool mesh, uint32_t events);
  bool open_socket(const Endpoint& endpoint, UniqueFd& fd, Watch& watch);
  bool claim(int fd) const;
  void begin_handshake();
  void advance_handshake();
  void take_session();
  void connect_server();
  void begin_pumping();
  void pump();
  KtlsIo::Event move_once(Direction& direction, Leg& from, Leg& to);
  bool send_rest(Direction& direction, Leg& to);
  bool check(const KtlsIoResult& result, const Leg& leg);
  void watch_legs();
  uint32_t events_of(Leg& leg, const Direction& in, const Direction& out) const;
  void look_for_reset(bool mesh, uint32_t events);

  void refuse(Refusal refusal);  // before anything was forwarded
  void finish(const char* outcome, const Refusal& why);
  void write_record(const char* outcome, const Refusal& why);

  LinkHome& home_;
  Endpoint client_;
  const RemoteService* service_;
  State state_ = State::dialling;
  Milliseconds deadline_{0};
  Milliseconds began_{0};
  UniqueFd mesh_fd_, plain_fd_;  // until they belong to legs
  std::unique_ptr<Handshake> handshake_;
  std::optional<PresentedPeer> presented_;          // once the handshake is done
  std::shared_ptr<const TrustBundles> trusted_by_;  // likewise: those that it was judged by last
  std::unique_ptr<Leg> mesh_, plain_;
  Watch mesh_watch_{*this}, plain_watch_{*this};
  Direction inward_, outward_;  // from the mesh, and into it
  // Of the handshake, for the record.
  std::string peer_, service_name_;
  std::optional<SpiffeId> peer_id_;
  const char* mode_ = "";
};

}  // namespace shunt::gateway
