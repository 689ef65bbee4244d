#include <gtest/gtest.h>

#include <base/nearest.hpp>
#include <control/values.hpp>

namespace shunt {
namespace {

TEST(Values, PortRanges) {
  const auto range = parse_port_range("8000-8100");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 8000);
  EXPECT_EQ(range->last, 8100);
  EXPECT_EQ(parse_port_range("65535")->last, 65535);
  for (const char* text :
       {"", "0", "65536", "80-", "-80", "90-80", "http", "80 ", "+80", "1-2-3", "99999999999999999999"}) {
    EXPECT_FALSE(parse_port_range(text)) << text;
  }
}

TEST(Values, Cidrs) {
  EXPECT_EQ(parse_cidr("0.0.0.0/0")->prefix_bits, 96);
  EXPECT_EQ(parse_cidr("::/0")->prefix_bits, 0);
  EXPECT_EQ(parse_cidr("fd00::/8")->prefix_bits, 8);
  EXPECT_EQ(parse_cidr("10.1.2.3")->prefix_bits, 128);
  EXPECT_EQ(parse_cidr("10.1.2.3")->addr[10], 0xff);
  for (const char* text : {"", "/", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.1/31/2", "fe80::1%lo", "10.0.0.0/",
                           "10.0.0.0/-1", "host"}) {
    EXPECT_FALSE(parse_cidr(text)) << text;
  }
  EXPECT_EQ(parse_cidr("fd00::1/64").error().remedy, "write fd00::/64");
}

TEST(Values, SizesAndTimes) {
  EXPECT_EQ(*parse_bytes("256KiB", 1 << 20), 256u * 1024);
  EXPECT_EQ(*parse_bytes("7", 7), 7u);
  for (const char* text : {"8", "1KB", "KiB", "-1", "1.5KiB", "18446744073709551615GiB"})
    EXPECT_FALSE(parse_bytes(text, 7)) << text;
  EXPECT_EQ(parse_duration("2m", std::chrono::hours(1))->count(), 120'000);
  EXPECT_EQ(parse_duration("0", std::chrono::hours(1))->count(), 0);
  for (const char* text : {"5", "s", "61m", "1 s", "-1s"})
    EXPECT_FALSE(parse_duration(text, std::chrono::hours(1))) << text;
}

TEST(Values, Users) {
  EXPECT_EQ(*parse_user("0"), 0u);
  EXPECT_EQ(*parse_user("root"), 0u);
  EXPECT_EQ(*parse_user("4294967294"), 4294967294u);
  for (const char* text : {"", "4294967295", "no-such-user-here", "-1"}) EXPECT_FALSE(parse_user(text)) << text;
}

TEST(Values, ListenAddresses) {
  EXPECT_EQ(parse_listen_address("127.0.0.1:9615")->port, 9615);
  EXPECT_EQ(parse_listen_address("[::1]:1")->addr[15], 1);
  for (const char* text :
       {"", ":", "9615", ":9615", "::1:9615", "[127.0.0.1]:1", "[::1]", "127.0.0.1:0", "localhost:80", "[]:1"}) {
    EXPECT_FALSE(parse_listen_address(text)) << text;
  }
}

TEST(Values, NearestWord) {
  const std::vector<std::string> words{"format", "level", "target"};
  EXPECT_EQ(nearest("levle", words), "level");
  EXPECT_EQ(nearest("frmat", words), "format");
  EXPECT_EQ(nearest("x", words), std::nullopt);
  EXPECT_EQ(nearest("", words), std::nullopt);
  EXPECT_EQ(nearest(std::string(1000, 'l'), words), std::nullopt);
}

}  // namespace
}  // namespace shunt
