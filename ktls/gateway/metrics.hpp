// The metrics of shunt-gateway.
#pragma once

#include <prometheus/metric_family.h>

#include <ktls/gateway/shared.hpp>
#include <vector>

namespace shunt::gateway {

std::vector<prometheus::MetricFamily> gateway_metrics(const Shared& shared);

}  // namespace shunt::gateway
