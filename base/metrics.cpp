#include <prometheus/text_serializer.h>

#include <base/metrics.hpp>
#include <sstream>

namespace shunt {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily metric_family(MetricType type, std::string name, std::string help) {
  MetricFamily made;
  made.name = "shunt_" + std::move(name);
  made.help = std::move(help);
  made.type = type;
  return made;
}

void add_sample(MetricFamily& target, double value, std::vector<ClientMetric::Label> labels) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (target.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  target.metric.push_back(std::move(metric));
}

MetricFamily single_metric(MetricType type, std::string name, std::string help, double value) {
  MetricFamily made = metric_family(type, std::move(name), std::move(help));
  add_sample(made, value);
  return made;
}

MetricFamily build_info_metric() {
  MetricFamily made =
      metric_family(MetricType::Gauge, "build_info", "A metric with the constant value 1, labelled with the version.");
  add_sample(made, 1, {{"version", SHUNT_VERSION}});
  return made;
}

std::string metrics_text(const std::vector<MetricFamily>& families) {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return out.str();
}

}  // namespace shunt
