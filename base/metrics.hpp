// What the metrics of all our programs are made of. Every name begins with "shunt_".
#pragma once

#include <prometheus/metric_family.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace shunt {

prometheus::MetricFamily metric_family(prometheus::MetricType type, std::string name, std::string help);

void add_sample(prometheus::MetricFamily& target, double value,
                std::vector<prometheus::ClientMetric::Label> labels = {});

// One without labels.
prometheus::MetricFamily single_metric(prometheus::MetricType type, std::string name, std::string help, double value);

// What other threads add to.
inline double metric_value(const std::atomic<uint64_t>& value) {
  return static_cast<double>(value.load(std::memory_order_relaxed));
}

// The version, as the label of a metric that is always 1.
prometheus::MetricFamily build_info_metric();

// The text format.
std::string metrics_text(const std::vector<prometheus::MetricFamily>& families);

}  // namespace shunt
