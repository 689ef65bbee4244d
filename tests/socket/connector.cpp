#include "socket/connector.hpp"

#include <fcntl.h>
#include <unistd.h>

namespace shunt::test {

namespace {

constexpr uint64_t kTurns = 20;
constexpr size_t kTurnBytes = 64;

}  // namespace

Connector::Connector(int listener, pid_t pid) {
  int ends[2];
  require(pipe2(ends, O_CLOEXEC) == 0, "pipe");
  UniqueFd go(ends[0]);
  go_.reset(ends[1]);
  const Endpoint to = local_endpoint(listener);
  const auto body = [&] {
    go_.reset();  // else it would wait for itself
    for (char order; read(go.get(), &order, 1) == 1;) {
      const UniqueFd client = connect_tcp(to);
      for (std::string bytes; (bytes = receive_exactly(client.get(), kTurnBytes)).size() == kTurnBytes;)
        send_all(client.get(), bytes);
    }
    return 0;
  };
  child_ = Child::fork(body, pid);
}

UniqueFd Connector::connect(int listener) const {
  require(write(go_.get(), "c", 1) == 1, "order a connection");
  UniqueFd server = accept_tcp(listener);
  for (uint64_t turn = 0; turn < kTurns; ++turn) {
    const std::string bytes = pattern(turn, kTurnBytes);
    send_all(server.get(), bytes);
    if (receive_exactly(server.get(), kTurnBytes) != bytes) ADD_FAILURE() << "an echo is wrong";
  }
  return server;
}

Settings settings_with_verification() {
  Settings settings = plain_settings();
  settings.any_program = false;
  settings.receivers = {{.name = own_program(), .verify = true}};
  return settings;
}

void verify_all(Accelerated& shortcut) {
  const auto read = shortcut.engine().read_events([&](const sh_event& event) {
    if (event.kind != SH_EV_VERIFY) return;
    EXPECT_TRUE(shortcut.engine().verify_process(event.tgid).has_value());
  });
  EXPECT_TRUE(read.has_value());
}

UniqueFd verified_listener(Accelerated& shortcut) {
  UniqueFd listener = listen_tcp();
  const Connection first = connect_through(listener.get(), local_endpoint(listener.get()));
  EXPECT_FALSE(shortcut.is_in_map(first.client.get()));
  verify_all(shortcut);
  EXPECT_TRUE(shortcut.make_fast(connect_through(listener.get(), local_endpoint(listener.get()))));
  return listener;
}

}  // namespace shunt::test
