// Requests under Istio's names: the labels, the sums, and what is added from the counters of the kernel side.
#include <gtest/gtest.h>

#include <control/request_metrics.hpp>

namespace shunt {
namespace {

const char* const kDocuments = R"(
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: front-1, namespace: shop, labels: {app: front, version: v3}}
spec: {match: {unit: front.service}, spiffe: "spiffe://example.org/front"}
---
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app.kubernetes.io/name: api-server}}
spec: {match: {unit: api.service}, spiffe: "spiffe://example.org/api"}
---
apiVersion: shunt.dev/v1
kind: Service
metadata: {name: other-port, namespace: shop}
spec: {selector: {matchLabels: {app.kubernetes.io/name: api-server}}, ports: [{name: http, port: 80, targetPort: 8081}]}
---
apiVersion: shunt.dev/v1
kind: Service
metadata: {name: api-svc, namespace: shop}
spec: {selector: {matchLabels: {app.kubernetes.io/name: api-server}}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app.kubernetes.io/name: api-server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: front}}]
    toPorts: [{ports: [{port: '8080'}], rules: {http: [{path: /x}]}}]
)";

std::shared_ptr<const PolicyState::Prepared> prepared() {
  static PolicyState state;
  auto made = state.prepare(std::vector<TextSource>{{"test.yaml", kDocuments}});
  EXPECT_TRUE(made.has_value());
  return *made;
}

uint32_t identity(const PolicyState::Prepared& policy, const std::string& title) {
  for (const policy::Identity& one : policy.tables.identities)
    if (one.title == title) return one.number;
  ADD_FAILURE() << "no " << title;
  return 0;
}

sh_response_key front_to_api(const PolicyState::Prepared& policy, uint16_t status) {
  sh_response_key key = {};
  key.generation = 7;
  key.client = identity(policy, "shop/front-1");
  key.server = identity(policy, "shop/api");
  key.port = 8080;
  key.status = status;
  return key;
}

policy::IstioReporter reporter(policy::IstioMetrics& metrics, const PolicyState::Prepared& policy) {
  return {metrics, policy.loaded.model, policy.tables};
}

std::string text_of(const std::vector<prometheus::MetricFamily>& families) { return metrics_text(families); }

bool has_all(const std::string& line, std::initializer_list<const char*> labels) {
  for (const char* label : labels) {
    if (line.find(label) != std::string::npos) continue;
    ADD_FAILURE() << "no " << label << " in " << line;
    return false;
  }
  return true;
}

std::string requests_line(const policy::IstioMetrics& metrics) {
  const std::string text = text_of(metrics.families());
  const size_t at = text.find("\nistio_requests_total{");
  return at == std::string::npos ? text : text.substr(at + 1, text.find('\n', at + 1) - at - 1);
}

TEST(IstioMetrics, BothEndsAreNamed) {
  const auto policy = prepared();
  policy::IstioMetrics metrics;
  reporter(metrics, *policy).add(front_to_api(*policy, 200), policy::one_response(10));
  EXPECT_TRUE(has_all(requests_line(metrics), {R"(reporter="destination")",
                                               R"(source_workload="front-1")",
                                               R"(source_workload_namespace="shop")",
                                               R"(source_app="front")",
                                               R"(source_version="v3")",
                                               R"(source_canonical_service="front")",
                                               R"(source_canonical_revision="v3")",
                                               R"(source_principal="unknown")",
                                               R"(destination_workload="api")",
                                               R"(destination_app="api-server")",
                                               R"(destination_version="unknown")",
                                               R"(destination_canonical_service="api-server")",
                                               R"(destination_canonical_revision="latest")",
                                               R"(destination_service="api-svc.shop.svc.cluster.local")",
                                               R"(destination_service_name="api-svc")",
                                               R"(destination_service_namespace="shop")",
                                               R"(request_protocol="http")",
                                               R"(response_code="200")",
                                               R"(response_flags="-")",
                                               R"(connection_security_policy="none")",
                                               "} 1"}));
}

TEST(IstioMetrics, OtherHostsAreKnownByTheirCertificate) {
  const auto policy = prepared();
  policy::IstioMetrics from, to;
  sh_response_key key = front_to_api(*policy, 200);
  key.flags = SH_RESPONSE_FROM_REMOTE;
  reporter(from, *policy).add(key, policy::one_response(10));
  EXPECT_TRUE(has_all(requests_line(from),
                      {R"(reporter="destination")", R"(source_principal="spiffe://example.org/front")",
                       R"(destination_principal="unknown")", R"(connection_security_policy="mutual_tls")"}));
  key.flags = SH_RESPONSE_TO_REMOTE;
  reporter(to, *policy).add(key, policy::one_response(10));
  EXPECT_TRUE(has_all(requests_line(to), {R"(reporter="source")", R"(source_principal="unknown")",
                                          R"(destination_principal="spiffe://example.org/api")",
                                          R"(connection_security_policy="unknown")"}));
}

TEST(IstioMetrics, WhoIsNoWorkloadIsUnknown) {
  const auto policy = prepared();
  policy::IstioMetrics metrics;
  sh_response_key key = front_to_api(*policy, 0);
  key.client = SH_IDENTITY_WORLD;
  key.port = 9;
  reporter(metrics, *policy).add(key, policy::one_response(10));
  EXPECT_TRUE(
      has_all(requests_line(metrics), {R"(source_workload="unknown")", R"(source_workload_namespace="unknown")",
                                       R"(source_canonical_revision="latest")", R"(destination_service="unknown")",
                                       R"(response_code="0")", R"(response_flags="DC")"}));
}

TEST(IstioMetrics, DurationsAreInIstiosBuckets) {
  const auto policy = prepared();
  policy::IstioMetrics metrics;
  for (const uint64_t us : {1ul, 500ul, 501ul, 3'600'000'000ul, 3'600'000'001ul})
    reporter(metrics, *policy).add(front_to_api(*policy, 200), policy::one_response(us));
  const prometheus::MetricFamily durations = metrics.families()[1];
  ASSERT_EQ(durations.metric.size(), 1u);
  const prometheus::ClientMetric::Histogram& histogram = durations.metric[0].histogram;
  EXPECT_EQ(histogram.sample_count, 5u);
  EXPECT_DOUBLE_EQ(histogram.sample_sum, 7'200'001.003);
  ASSERT_EQ(histogram.bucket.size(), 20u);
  EXPECT_DOUBLE_EQ(histogram.bucket[0].upper_bound, 0.5);
  EXPECT_EQ(histogram.bucket[0].cumulative_count, 2u);
  EXPECT_DOUBLE_EQ(histogram.bucket[1].upper_bound, 1);
  EXPECT_EQ(histogram.bucket[1].cumulative_count, 3u);
  EXPECT_EQ(histogram.bucket[18].cumulative_count, 4u);
  EXPECT_EQ(histogram.bucket[19].cumulative_count, 5u);
}

TEST(IstioMetrics, CombinationsOfLabelsAreBounded) {
  const auto policy = prepared();
  policy::IstioMetrics metrics;
  policy::IstioReporter one(metrics, policy->loaded.model, policy->tables);
  for (uint32_t i = 0; i < SH_RESPONSES_MAX + 3; i++)
    one.add(front_to_api(*policy, static_cast<uint16_t>(i)), policy::one_response(1));
  one.add(front_to_api(*policy, 1), policy::one_response(1));
  // The next policy's.
  reporter(metrics, *policy).add(front_to_api(*policy, SH_RESPONSES_MAX + 1), policy::one_response(1));
  reporter(metrics, *policy).add(front_to_api(*policy, 1), policy::one_response(1));
  const auto families = metrics.families();
  EXPECT_EQ(families[0].metric.size(), size_t{SH_RESPONSES_MAX});
  EXPECT_EQ(families[2].metric[0].counter.value, 4);
}

double told(const RequestMetrics& metrics) {
  double sum = 0;
  for (const auto& metric : metrics.families()[0].metric) sum += metric.counter.value;
  return sum;
}

ResponseRow row(sh_response_key key, uint64_t requests) {
  ResponseRow made;
  made.key = key;
  made.sum.requests = requests;
  made.sum.within[0] = requests;
  return made;
}

TEST(RequestMetrics, WhatIsNewIsAddedOnce) {
  const auto policy = prepared();
  RequestMetrics metrics;
  metrics.policy_changed(7, policy, true);
  const sh_response_key key = front_to_api(*policy, 200);
  metrics.take({row(key, 5)});
  metrics.take({row(key, 5)});
  EXPECT_EQ(told(metrics), 5);
  metrics.take({row(key, 8), row(front_to_api(*policy, 403), 2)});
  EXPECT_EQ(told(metrics), 10);
}

TEST(RequestMetrics, ThePolicyBeforeIsStillCounted) {
  const auto policy = prepared();
  RequestMetrics metrics;
  metrics.policy_changed(7, policy, true);
  sh_response_key before = front_to_api(*policy, 200), now = before, unknown = before;
  now.generation = 8;
  unknown.generation = 6;
  metrics.take({row(before, 5)});
  metrics.policy_changed(8, policy, true);
  EXPECT_EQ(metrics.oldest(), 7u);
  metrics.take({row(before, 6), row(now, 1), row(unknown, 100)});
  EXPECT_EQ(told(metrics), 7);
  metrics.policy_changed(9, policy, true);
  EXPECT_EQ(metrics.oldest(), 8u);
  metrics.take({row(before, 50), row(now, 3)});
  EXPECT_EQ(told(metrics), 9);
  metrics.policy_changed(10, policy, false);
  EXPECT_EQ(metrics.oldest(), 10u);
}

}  // namespace
}  // namespace shunt
