#include <base/metrics.hpp>
#include <ctime>
#include <ktls/gateway/metrics.hpp>

namespace shunt::gateway {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily gauge(const char* name, const char* help, double value) {
  return single_metric(MetricType::Gauge, name, help, value);
}

MetricFamily counter(const char* name, const char* help, double value) {
  return single_metric(MetricType::Counter, name, help, value);
}

MetricFamily mode_family(const Shared& shared) {
  MetricFamily made = metric_family(MetricType::Gauge, "gateway_mode",
                                    "1 for who encrypts: the kernel (ktls), or OpenSSL (userspace).");
  for (const bool to_kernel : {true, false})
    add_sample(made, shared.to_kernel == to_kernel ? 1 : 0, {{"mode", mode_name(to_kernel)}});
  return made;
}

MetricFamily made_family(const Counters& counters) {
  MetricFamily made =
      metric_family(MetricType::Counter, "gateway_connections_total", "Connections, by where they came from.");
  add_sample(made, metric_value(counters.from_mesh), {{"from", "mesh"}});
  add_sample(made, metric_value(counters.to_mesh), {{"from", "host"}});
  return made;
}

// Of the reasons that the manual lists those that there were.
MetricFamily reasons_family(const Counters& counters) {
  MetricFamily made = metric_family(MetricType::Counter, "gateway_connections_failed_total",
                                    "Connections that were refused or failed, by reason.");
  for (const auto& [reason, count] : counters.reasons())
    add_sample(made, static_cast<double>(count), {{"reason", reason}});
  return made;
}

}  // namespace

std::vector<MetricFamily> gateway_metrics(const Shared& shared) {
  const Counters& counters = shared.counters;
  return {
      build_info_metric(),
      mode_family(shared),
      gauge("gateway_certificate_expiry_seconds", "When the gateway's certificate expires, in seconds since 1970.",
            static_cast<double>(shared.security.get()->expiry_seconds())),
      counter("gateway_certificate_rotations_total", "Rotations of certificates and bundles.",
              metric_value(counters.rotations)),
      counter("gateway_peers_judged_again_total",
              "Certificates of live connections that were verified again because bundles or lists have changed.",
              metric_value(counters.judged_again)),
      gauge("gateway_connections", "Open connections.", metric_value(counters.connections)),
      gauge("gateway_handshakes", "Unfinished handshakes of the mesh.", metric_value(counters.handshakes)),
      made_family(counters),
      reasons_family(counters),
      counter("gateway_received_bytes_total", "Bytes from the mesh, of closed connections.",
              metric_value(counters.received_bytes)),
      counter("gateway_sent_bytes_total", "Bytes to the mesh, of closed connections.",
              metric_value(counters.sent_bytes)),
      counter("gateway_access_log_lines_lost_total", "Lines that the access log could not be given fast enough.",
              static_cast<double>(shared.access_log.lost())),
  };
}

}  // namespace shunt::gateway
