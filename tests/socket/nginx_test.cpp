// nginx as the receiver of uploads and of proxied downloads: it relies on FIONREAD and on edges, so a byte or an edge
// that is lost shows as a stall.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/stat.h>

#include <thread>

#include "support/accelerated.hpp"
#include "support/checked_bytes.hpp"

namespace shunt::test {
namespace {

constexpr auto kCurlLimit = std::chrono::seconds(60);
constexpr int kMegabyte = 1000000;

std::string nginx_configuration(const TempDir& dir, uint16_t front, uint16_t back) {
  return fmt::format(
      R"(worker_processes 2; daemon off; user root; pid {0}/pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 200m; keepalive_requests 100000;
  client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;
  uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
  upstream back {{ server 127.0.0.1:{2}; keepalive 16; }}
  proxy_http_version 1.1; proxy_set_header Connection "";
  server {{
    listen 127.0.0.1:{1}; root {0}/files;
    location /up/ {{ dav_methods PUT; create_full_put_path on; }}
    location /proxied/ {{ proxy_pass http://back/up/; }}
    location /unbuffered/ {{ proxy_pass http://back/up/; proxy_request_buffering off; proxy_buffering off; }}
  }}
  server {{
    listen 127.0.0.1:{2}; root {0}/files;
    location /up/ {{ dav_methods PUT; create_full_put_path on; }}
  }}
}}
)",
      dir.path(), front, back);
}

uint16_t free_port() {
  const UniqueFd listener = listen_tcp();
  return local_endpoint(listener.get()).port();
}

class Nginx {
 public:
  Nginx() : front_(free_port()), back_(free_port()) {
    mkdir((dir_ / "files").c_str(), 0755);
    require(write_text(dir_ / "nginx.conf", nginx_configuration(dir_, front_, back_)), "write nginx.conf");
    write_text(dir_ / "files/small", "small");
    server_ = Child::exec({"nginx", "-c", dir_ / "nginx.conf"}, dir_ / "log");
    require(eventually([&] {
              return run_command({"curl", "-sf", url("/small")}).output == "small";
            }),
            "start nginx: " + log());
  }
  ~Nginx() {
    server_.signal(SIGTERM);
    server_.wait(std::chrono::seconds(10));
  }
  std::string url(const std::string& path) const { return fmt::format("http://127.0.0.1:{}{}", front_, path); }
  std::string log() const { return read_text(dir_ / "log"); }
  const TempDir& dir() const { return dir_; }

 private:
  TempDir dir_;
  uint16_t front_, back_;
  Child server_;
};

// One curl process, one connection: small requests, so that it is on the shortcut, uploads on all ways, downloads,
// small again.
Child start_curl(const Nginx& nginx, int number, const std::string& source) {
  std::string config;
  const auto next = [&](const std::string& lines) {
    config += lines + "silent\nshow-error\nfail\nmax-time = 30\nnext\n";
  };
  const auto get = [&](const std::string& path, const std::string& to) {
    next(fmt::format("url = \"{}\"\noutput = \"{}\"\n", nginx.url(path), to));
  };
  for (int i = 0; i < 20; ++i) get("/small", "/dev/null");
  for (const char* way : {"up", "proxied", "unbuffered"}) {
    const std::string name = fmt::format("{}-{}", way, number);
    next(fmt::format("url = \"{}\"\nupload-file = \"{}\"\noutput = \"/dev/null\"\n",
                     nginx.url(fmt::format("/{}/{}", way, name)), source));
    for (int i = 0; i < 10; ++i) get("/small", "/dev/null");
    get(fmt::format("/{}/{}", way, name), nginx.dir() / ("got-" + name));
  }
  config.erase(config.size() - 5);  // the last "next"
  write_text(nginx.dir() / fmt::format("curl-{}", number), config);
  return Child::exec({"curl", "-K", nginx.dir() / fmt::format("curl-{}", number)},
                     nginx.dir() / fmt::format("curl-log-{}", number));
}

void exchange(const Nginx& nginx, const std::vector<int>& megabytes) {
  std::vector<std::string> contents;
  std::vector<Child> clients;
  for (size_t i = 0; i < megabytes.size(); ++i) {
    contents.push_back(pattern(i, static_cast<size_t>(megabytes[i]) * kMegabyte));
    const std::string source = nginx.dir() / fmt::format("source-{}", i);
    require(write_text(source, contents[i]), "write a file");
    clients.push_back(start_curl(nginx, static_cast<int>(i), source));
  }
  for (size_t i = 0; i < megabytes.size(); ++i) {
    EXPECT_EQ(clients[i].wait(kCurlLimit), 0)
        << "curl " << i << " (28: stalled): " << read_text(nginx.dir() / fmt::format("curl-log-{}", i)) << nginx.log();
    for (const char* way : {"up", "proxied", "unbuffered"}) {
      const std::string name = fmt::format("{}-{}", way, i);
      EXPECT_TRUE(read_text(nginx.dir() / ("files/up/" + name)) == contents[i]) << "uploaded " << name;
      EXPECT_TRUE(read_text(nginx.dir() / ("got-" + name)) == contents[i]) << "downloaded " << name;
    }
  }
}

const std::vector<int> kMegabytes = {1, 3, 10, 20, 50};

TEST(NginxPlain, ExchangesEveryByte) { exchange(Nginx(), {1, 10}); }

TEST(NginxAccelerated, ExchangesEveryByteWithTheEngineAlive) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  exchange(Nginx(), kMegabytes);
  EXPECT_GT(shortcut.counter(SH_C_PAIRS), kMegabytes.size());
  EXPECT_GT(shortcut.counter(SH_C_FAST_BYTES), 0u);
  fmt::print("{} pairs, {} KB redirected, {} KB through TCP, {} spills, {} latches\n", shortcut.counter(SH_C_PAIRS),
             shortcut.counter(SH_C_FAST_BYTES) / 1000, shortcut.counter(SH_C_TCP_BYTES) / 1000,
             shortcut.counter(SH_C_SPILLS), shortcut.counter(SH_C_LATCHES));
}

TEST(NginxAccelerated, ExchangesEveryByteWithTheEngineGone) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  shortcut.destroy_engine();
  exchange(Nginx(), kMegabytes);
  EXPECT_GT(shortcut.counter(SH_C_PAIRS), kMegabytes.size());
  EXPECT_GT(shortcut.counter(SH_C_FAST_BYTES), 0u) << shortcut.summary();
}

// Connections live when the engine goes and comes back.
TEST(NginxAccelerated, ExchangesEveryByteWhileTheEngineRestarts) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const Nginx nginx;
  std::thread exchanging([&] { exchange(nginx, kMegabytes); });
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    shortcut.destroy_engine();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    shortcut.open_engine();
  }
  exchanging.join();
}

// Limits so low that nginx's connections spill all the time.
TEST(NginxAccelerated, ExchangesEveryByteThroughManySpills) {
  Settings settings = plain_settings();
  settings.spill_bytes = 16384;
  settings.spill_messages = 4;
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  exchange(Nginx(), {1, 3, 10});
  EXPECT_GT(shortcut.counter(SH_C_SPILLS), 0u) << shortcut.summary();
}

}  // namespace
}  // namespace shunt::test
