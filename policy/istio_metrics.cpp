#include <algorithm>
#include <iterator>
#include <limits>
#include <policy/istio_metrics.hpp>
#include <tuple>
#include <unordered_map>

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

bool ResponseKeyLess::operator()(const sh_response_key& a, const sh_response_key& b) const {
  return std::tie(a.generation, a.client, a.server, a.port, a.status, a.flags) <
         std::tie(b.generation, b.client, b.server, b.port, b.status, b.flags);
}

// What the identities and services of one policy are called.
class IstioReporter::Names {
 public:
  Names(const Model& model, const Tables& tables) : tables_(tables) {
    for (const Workload& workload : model.workloads) workloads_.emplace(workload.title(), &workload);
    for (const Service& service : model.services)
      for (const ServicePort& port : service.ports)
        services_[{service.name_space, port.target_port}].push_back(&service);
  }

  // In the order of kLabels.
  std::vector<std::string> values(const sh_response_key& key) const {
    const bool from_remote = (key.flags & SH_RESPONSE_FROM_REMOTE) != 0,
               to_remote = (key.flags & SH_RESPONSE_TO_REMOTE) != 0;
    const Workload* const client = workload(key.client);
    const Workload* const server = workload(key.server);
    const Service* const service = this->service(server, key.port);
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

 private:
  // Workloads with equal labels are one identity, and go by the name of the first.
  const Workload* workload(uint32_t number) const {
    const Identity* const identity = tables_.identity(number);
    if (identity == nullptr || identity->cidr || number < SH_IDENTITY_WORKLOADS) return nullptr;
    const auto found = workloads_.find(identity->title);
    return found == workloads_.end() ? nullptr : found->second;
  }

  const Service* service(const Workload* server, uint16_t port) const {
    if (server == nullptr) return nullptr;
    const auto found = services_.find({server->name_space, port});
    if (found == services_.end()) return nullptr;
    const auto its = std::find_if(found->second.begin(), found->second.end(),
                                  [&](const Service* service) { return service->workloads.matches(server->labels); });
    return its == found->second.end() ? nullptr : *its;
  }

  const Tables& tables_;
  std::unordered_map<std::string, const Workload*> workloads_;                        // by title
  std::map<std::pair<std::string, uint16_t>, std::vector<const Service*>> services_;  // by namespace and target port
};

IstioReporter::IstioReporter(IstioMetrics& metrics, const Model& model, const Tables& tables)
    : metrics_(metrics), model_(model), tables_(tables) {}

IstioReporter::~IstioReporter() = default;

void IstioReporter::add(sh_response_key key, const sh_response_sum& sum) {
  key.generation = 0;
  const std::lock_guard lock(metrics_.mutex_);
  auto found = sums_.find(key);
  if (found == sums_.end() && sums_.size() < SH_RESPONSES_MAX) {
    if (!names_) names_ = std::make_unique<const Names>(model_, tables_);
    found = sums_.emplace(key, metrics_.sum_of(names_->values(key))).first;
  }
  if (found == sums_.end() || found->second == nullptr) {
    metrics_.not_told_ += sum.requests;
    return;
  }
  sh_response_sum& all = *found->second;
  all.requests += sum.requests;
  all.duration_us += sum.duration_us;
  for (size_t i = 0; i < std::size(sum.within); i++) all.within[i] += sum.within[i];
}

sh_response_sum* IstioMetrics::sum_of(std::vector<std::string> values) {
  if (sums_.size() >= SH_RESPONSES_MAX && !sums_.contains(values)) return nullptr;
  return &sums_[std::move(values)];
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
