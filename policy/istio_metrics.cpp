#include <algorithm>
#include <iterator>
#include <limits>
#include <policy/istio_metrics.hpp>

namespace shunt::policy {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr const char* kLabels[] = {"reporter",
                                   "source_workload",
                                   "source_workload_namespace",
                                   "source_principal",
                                   "source_app",
                                   "source_version",
                                   "source_canonical_service",
                                   "source_canonical_revision",
                                   "source_cluster",
                                   "destination_workload",
                                   "destination_workload_namespace",
                                   "destination_principal",
                                   "destination_app",
                                   "destination_version",
                                   "destination_canonical_service",
                                   "destination_canonical_revision",
                                   "destination_cluster",
                                   "destination_service",
                                   "destination_service_name",
                                   "destination_service_namespace",
                                   "request_protocol",
                                   "response_code",
                                   "response_flags",
                                   "connection_security_policy"};
constexpr const char* kUnknown = "unknown";
constexpr uint64_t kBoundsUs[] = {SH_RESPONSE_BOUNDS_US};
static_assert(std::size(kBoundsUs) == SH_RESPONSE_BOUNDS);

// Those of the labels that are there, the first of these keys.
std::string label(const Labels& labels, std::initializer_list<const char*> keys, const std::string& otherwise) {
  for (const char* key : keys) {
    const auto found = labels.find(key);
    if (found != labels.end() && !found->second.empty()) return found->second;
  }
  return otherwise;
}

// Workloads with equal labels are one identity, and go by the name of the first.
const Workload* workload_of(const Model& model, const Identity* identity) {
  if (identity == nullptr || identity->cidr || identity->number < SH_IDENTITY_WORKLOADS) return nullptr;
  const auto found = std::find_if(model.workloads.begin(), model.workloads.end(),
                                  [&](const Workload& workload) { return workload.title() == identity->title; });
  return found == model.workloads.end() ? nullptr : &*found;
}

void add_end(const Workload* workload, bool remote, std::vector<std::string>& values) {
  if (workload == nullptr) {
    values.insert(values.end(), {kUnknown, kUnknown, kUnknown, kUnknown, kUnknown, kUnknown, "latest", kUnknown});
    return;
  }
  const Labels& labels = workload->labels;
  values.insert(
      values.end(),
      {workload->name, workload->name_space, remote && workload->spiffe ? workload->spiffe->text() : kUnknown,
       label(labels, {"app", "app.kubernetes.io/name"}, kUnknown),
       label(labels, {"version", "app.kubernetes.io/version"}, kUnknown),
       label(labels, {"service.istio.io/canonical-name", "app.kubernetes.io/name", "app"}, workload->name),
       label(labels, {"service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"}, "latest"),
       kUnknown});
}

const Service* service_of(const Model& model, const Workload* server, uint16_t port) {
  if (server == nullptr) return nullptr;
  for (const Service& service : model.services) {
    const bool has_port = std::any_of(service.ports.begin(), service.ports.end(),
                                      [&](const ServicePort& one) { return one.target_port == port; });
    if (has_port && service.name_space == server->name_space && service.workloads.matches(server->labels))
      return &service;
  }
  return nullptr;
}

std::vector<std::string> values_of(const Model& model, const Tables& tables, const sh_response_key& key) {
  const bool from_remote = (key.flags & SH_RESPONSE_FROM_REMOTE) != 0,
             to_remote = (key.flags & SH_RESPONSE_TO_REMOTE) != 0;
  const Workload* const client = workload_of(model, tables.identity(key.client));
  const Workload* const server = workload_of(model, tables.identity(key.server));
  const Service* const service = service_of(model, server, key.port);
  std::vector<std::string> values{to_remote ? "source" : "destination"};
  add_end(client, from_remote, values);
  add_end(server, to_remote, values);
  if (service == nullptr)
    values.insert(values.end(), {kUnknown, kUnknown, kUnknown});
  else
    values.insert(values.end(), {service->name + "." + service->name_space + ".svc.cluster.local", service->name,
                                 service->name_space});
  values.insert(values.end(), {"http", std::to_string(key.status), key.status == 0 ? "DC" : "-",
                               to_remote     ? kUnknown
                               : from_remote ? "mutual_tls"
                                             : "none"});  // to the reporter "source", as in Istio
  return values;
}

// Istio's own names have no prefix of ours.
MetricFamily family(MetricType type, const char* name, const char* help) {
  MetricFamily made;
  made.name = name;
  made.help = help;
  made.type = type;
  return made;
}

ClientMetric metric_of(const std::vector<std::string>& values) {
  ClientMetric metric;
  for (size_t i = 0; i < values.size(); i++) metric.label.push_back({kLabels[i], values[i]});
  return metric;
}

ClientMetric::Histogram histogram_of(const sh_response_sum& sum) {
  ClientMetric::Histogram histogram;
  for (size_t i = 0; i < std::size(sum.within); i++) {
    histogram.sample_count += sum.within[i];
    const double bound =
        i < std::size(kBoundsUs) ? static_cast<double>(kBoundsUs[i]) / 1000.0 : std::numeric_limits<double>::infinity();
    histogram.bucket.push_back({histogram.sample_count, bound});
  }
  histogram.sample_sum = static_cast<double>(sum.duration_us) / 1000.0;
  return histogram;
}

}  // namespace

void IstioMetrics::add(const Model& model, const Tables& tables, const sh_response_key& key,
                       const sh_response_sum& sum) {
  std::vector<std::string> values = values_of(model, tables, key);
  const std::lock_guard lock(mutex_);
  if (sums_.size() >= SH_RESPONSES_MAX && !sums_.contains(values)) {
    not_told_ += sum.requests;
    return;
  }
  sh_response_sum& all = sums_[std::move(values)];
  all.requests += sum.requests;
  all.duration_us += sum.duration_us;
  for (size_t i = 0; i < std::size(sum.within); i++) all.within[i] += sum.within[i];
}

bool IstioMetrics::any() const {
  const std::lock_guard lock(mutex_);
  return !sums_.empty();
}

std::vector<MetricFamily> IstioMetrics::families() const {
  MetricFamily requests = family(MetricType::Counter, "istio_requests_total", "Requests that a policy judged.");
  MetricFamily durations = family(MetricType::Histogram, "istio_request_duration_milliseconds",
                                  "From the request to the beginning of its response.");
  const std::lock_guard lock(mutex_);
  for (const auto& [values, sum] : sums_) {
    requests.metric.push_back(metric_of(values));
    requests.metric.back().counter.value = static_cast<double>(sum.requests);
    durations.metric.push_back(metric_of(values));
    durations.metric.back().histogram = histogram_of(sum);
  }
  return {requests, durations,
          single_metric(MetricType::Counter, "requests_not_told_total",
                        "Requests that are in no metric with Istio's names: too many combinations of labels.",
                        static_cast<double>(not_told_))};
}

sh_response_sum one_response(uint64_t duration_us) {
  sh_response_sum sum = {};
  sum.requests = 1;
  sum.duration_us = duration_us;
  const auto* const bound = std::lower_bound(std::begin(kBoundsUs), std::end(kBoundsUs), duration_us);
  sum.within[bound - std::begin(kBoundsUs)] = 1;
  return sum;
}

}  // namespace shunt::policy
