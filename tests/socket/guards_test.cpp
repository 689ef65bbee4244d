// The setsockopt program is where enrolled sockets are, nowhere else, and always before them.
#include <sys/stat.h>

#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

using Guard = Accelerated::Guard;

void answer(Accelerated& shortcut) {
  const auto read = shortcut.engine().read_events([](const sh_event&) {});
  if (!read) ADD_FAILURE() << read.error().to_string();
}

uint32_t guards_on(const Cgroup& cgroup) { return programs_attached(cgroup, BPF_CGROUP_SETSOCKOPT); }

bool has_storage(Accelerated& shortcut, const Connection& connection) {
  return shortcut.row(connection.client.get()) || shortcut.row(connection.server.get());
}

// A folder below a cgroup, gone with its owner.
class Below {
 public:
  explicit Below(const Cgroup& above) : name_(above.name() + "/below"), path_(above.path() + "/below") {
    require(mkdir(path_.c_str(), 0755) == 0, "make " + path_);
  }
  ~Below() { rmdir(path_.c_str()); }
  const std::string& name() const { return name_; }
  const std::string& path() const { return path_; }

 private:
  std::string name_, path_;
};

TEST(Guards, TheFirstConnectionAsksAndTheNextIsEnrolled) {
  Accelerated shortcut(plain_settings(), Guard::on_request);
  const InCgroup inside(shortcut.cgroup());
  const Connection first = connect_pair();
  EXPECT_TRUE(ping_pong(first, 10));
  EXPECT_FALSE(has_storage(shortcut, first));
  EXPECT_GE(shortcut.reason_count(SH_R_UNGUARDED), 1u);
  EXPECT_EQ(guards_on(shortcut.cgroup()), 0u);
  answer(shortcut);
  EXPECT_EQ(guards_on(shortcut.cgroup()), 1u);
  const Connection second = connect_pair();
  EXPECT_TRUE(shortcut.make_fast(second));
}

// What an option would break is refused from the first moment at which the socket is in the map.
TEST(Guards, NoEnrolledSocketIsWithoutOne) {
  Accelerated shortcut(plain_settings(), Guard::on_request);
  const InCgroup inside(shortcut.cgroup());
  for (int i = 0; i < 20; ++i) {
    const Connection connection = connect_pair();
    const int on = 1;
    const bool refused = setsockopt(connection.client.get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) != 0;
    EXPECT_EQ(refused, shortcut.row(connection.client.get()).has_value()) << "connection " << i;
    if (i == 5) answer(shortcut);
  }
  EXPECT_GE(shortcut.counter(SH_C_PAIRS), 14u);
}

TEST(Guards, ExcludedProgramsDoNotAsk) {
  Settings settings = plain_settings();
  settings.selection.cidrs.exclude = {Cidr{.prefix_bits = 0}};
  Accelerated shortcut(settings, Guard::on_request);
  const InCgroup inside(shortcut.cgroup());
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(ping_pong(connect_pair(), 2));
  answer(shortcut);
  EXPECT_EQ(guards_on(shortcut.cgroup()), 0u);
  EXPECT_EQ(shortcut.reason_count(SH_R_UNGUARDED), 0u);
}

// The request goes out when a receiver is executed, before it has a socket.
TEST(Guards, ExecOfAReceiverAsks) {
  Settings settings = plain_settings();
  settings.any_program = false;
  settings.receivers = {ProgramEntry{.name = "true"}};
  Accelerated shortcut(settings, Guard::on_request);
  {
    const InCgroup inside(shortcut.cgroup());
    EXPECT_EQ(Child::exec({"false"}).wait(), 1);
    answer(shortcut);
    EXPECT_EQ(guards_on(shortcut.cgroup()), 0u);
    EXPECT_EQ(Child::exec({"true"}).wait(), 0);
  }
  answer(shortcut);
  EXPECT_EQ(guards_on(shortcut.cgroup()), 1u);
}

TEST(Guards, ListeningAsks) {
  Accelerated shortcut(plain_settings(), Guard::on_request);
  const InCgroup inside(shortcut.cgroup());
  const UniqueFd listener = listen_tcp();
  answer(shortcut);
  EXPECT_EQ(guards_on(shortcut.cgroup()), 1u);
}

// Two programs in one cgroup's chain would cost twice.
TEST(Guards, OneAboveSuffices) {
  Accelerated shortcut;
  Below below(shortcut.cgroup());
  EXPECT_TRUE(shortcut.engine().guard(below.name()));
  require(write_text(below.path() + "/cgroup.procs", "0"), "enter the cgroup below");
  {
    const Connection connection = connect_pair();
    EXPECT_TRUE(shortcut.make_fast(connection));
  }
  require(write_text(shortcut.cgroup().path() + "/cgroup.procs", "0"), "leave the cgroup below");
  shortcut.cgroup().leave();
}

TEST(Guards, ComeBackWhenShuntIsTurnedOnAgain) {
  Accelerated shortcut;
  const auto drained = shortcut.engine().detach(std::chrono::seconds(5));
  ASSERT_TRUE(drained);
  EXPECT_EQ(guards_on(shortcut.cgroup()), 0u);
  ASSERT_TRUE(shortcut.engine().attach());
  EXPECT_EQ(guards_on(shortcut.cgroup()), 1u);
  const InCgroup inside(shortcut.cgroup());
  const Connection connection = connect_pair();
  EXPECT_TRUE(shortcut.make_fast(connection));
}

// Its pin goes when the next cgroup asks: they would gather where containers come and go.
TEST(Guards, ARemovedCgroupIsForgotten) {
  Accelerated shortcut(plain_settings(), Guard::on_request);
  {
    Below below(shortcut.cgroup());
    ASSERT_TRUE(shortcut.engine().guard(below.name()));
  }
  EXPECT_FALSE(shortcut.engine().guard(shortcut.cgroup().name() + "/below"));
  EXPECT_EQ(shortcut.guard_pins(), 1u);
  const InCgroup inside(shortcut.cgroup());
  connect_pair();
  answer(shortcut);
  EXPECT_EQ(shortcut.guard_pins(), 1u);  // another one's
  EXPECT_EQ(guards_on(shortcut.cgroup()), 1u);
}

TEST(Guards, ARemovedCgroupIsForgottenAtTheNextStart) {
  Accelerated shortcut(plain_settings(), Guard::on_request);
  {
    Below below(shortcut.cgroup());
    ASSERT_TRUE(shortcut.engine().guard(below.name()));
  }
  EXPECT_TRUE(shortcut.engine().attach());
  EXPECT_EQ(shortcut.guard_pins(), 0u);
}

// Guards outside of what shunt is attached to would slow others for nothing.
TEST(Guards, OutsideOfTheSelectionThereAreNone) {
  Accelerated shortcut(plain_settings(), Guard::on_request);
  Cgroup elsewhere;
  EXPECT_TRUE(shortcut.engine().guard(elsewhere.name()));
  EXPECT_EQ(guards_on(elsewhere), 0u);
}

}  // namespace
}  // namespace shunt::test
