#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <base/metrics.hpp>
#include <base/metrics_server.hpp>
#include <fallback-proxy/metrics.hpp>

namespace shunt::proxy {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily requests_family(const Counters& counters) {
  MetricFamily made = metric_family(MetricType::Counter, "proxy_requests_total",
                                    "Requests, by how they came, what became of them, and the class of the status.");
  for (size_t source = 0; source < std::size(kSourceNames); source++) {
    for (size_t outcome = 0; outcome < std::size(kOutcomeNames); outcome++) {
      for (size_t digit = 0; digit < kStatusClasses; digit++) {
        add_sample(made, metric_value(counters.requests[source][outcome][digit]),
                   {{"source", std::string(kSourceNames[source])},
                    {"outcome", std::string(kOutcomeNames[outcome])},
                    {"code", std::string(kStatusClassNames[digit])}});
      }
    }
  }
  return made;
}

MetricFamily bytes_family(const char* name, const char* help,
                          const std::atomic<uint64_t> (&bytes)[std::size(kSourceNames)]) {
  MetricFamily made = metric_family(MetricType::Counter, name, help);
  for (size_t source = 0; source < std::size(kSourceNames); source++)
    add_sample(made, metric_value(bytes[source]), {{"source", std::string(kSourceNames[source])}});
  return made;
}

}  // namespace

std::vector<MetricFamily> proxy_metrics(const Counters& counters, uint64_t log_lines_lost) {
  std::vector<MetricFamily> families{
      build_info_metric(),
      single_metric(MetricType::Gauge, "proxy_connections", "Open connections of clients.",
                    metric_value(counters.connections)),
      single_metric(MetricType::Gauge, "proxy_channels", "Channels over which punted requests come.",
                    metric_value(counters.channels)),
      single_metric(MetricType::Counter, "proxy_connections_turned_away_total",
                    "Connections that got 503 because there were as many as are allowed.",
                    metric_value(counters.overload)),
      requests_family(counters),
      bytes_family("proxy_request_bytes_total", "Bytes of the bodies of requests.", counters.request_bytes),
      bytes_family("proxy_response_bytes_total", "Bytes of the bodies of responses, but of those to punted requests.",
                   counters.response_bytes),
      single_metric(MetricType::Counter, "proxy_access_log_lines_lost_total",
                    "Lines that the access log could not be given fast enough.", static_cast<double>(log_lines_lost)),
  };
  if (counters.responses.any())
    for (MetricFamily& family : counters.responses.families()) families.push_back(std::move(family));
  return families;
}

Result<void> MetricsThread::start(const std::string& address) {
  auto socket = listen_tcp(address);
  if (!socket) return unexpected(socket.error());
  auto loop = EventLoop::create();
  if (!loop) return unexpected(loop.error());
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return unexpected(errno, "cannot make an eventfd");
  auto server = std::make_unique<MetricsServer>(**loop, [this]() -> Result<std::string> { return page_(); });
  EventLoop& turning = **loop;
  if (auto added = turning.add(wake_.get(), EPOLLIN, [&turning](uint32_t) { turning.stop(); }); !added) return added;
  if (auto timed = turning.add_timer(std::chrono::seconds(1), [&sweeping = *server] { sweeping.sweep(); }); !timed)
    return timed;
  if (auto listening = server->listen(std::move(*socket)); !listening) return listening;
  thread_ = std::thread([loop = std::move(*loop), server = std::move(server)] { (void)loop->run(); });
  return {};
}

void MetricsThread::stop() {
  if (!thread_.joinable()) return;
  eventfd_write(wake_.get(), 1);
  thread_.join();
}

}  // namespace shunt::proxy
