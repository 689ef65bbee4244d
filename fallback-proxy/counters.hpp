// What the proxy counts, from any of its threads, for its metrics.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <policy/istio_metrics.hpp>
#include <string_view>

namespace shunt::proxy {

// How a request came: over a listener of the configuration, over a connection that was steered here, or punted, over a
// channel.
enum class Source : uint8_t { listener, steered, channel };
inline constexpr std::string_view kSourceNames[] = {"listener", "steered", "channel"};

// What became of it: sent to its server, against the policy, not a request that may be sent on, or without success.
enum class Outcome : uint8_t { forwarded, denied, refused, failed };
inline constexpr std::string_view kOutcomeNames[] = {"forwarded", "denied", "refused", "failed"};

constexpr std::string_view outcome_name(Outcome outcome) { return kOutcomeNames[static_cast<size_t>(outcome)]; }

// By the first digit of the status. 0: there was none, because an end had left; or it is not seen here, because a
// server's answer to a punted request goes straight to the client.
inline constexpr size_t kStatusClasses = 6;
inline constexpr std::string_view kStatusClassNames[kStatusClasses] = {"none", "1xx", "2xx", "3xx", "4xx", "5xx"};

struct Counters {
  std::atomic<uint64_t> connections{0};  // open now
  std::atomic<uint64_t> overload{0};     // turned away with 503
  std::atomic<uint64_t> channels{0};     // held now

  std::atomic<uint64_t> requests[std::size(kSourceNames)][std::size(kOutcomeNames)][kStatusClasses] = {};
  std::atomic<uint64_t> request_bytes[std::size(kSourceNames)] = {};  // of bodies
  std::atomic<uint64_t> response_bytes[std::size(kSourceNames)] = {};

  policy::IstioMetrics responses;  // that the kernel side does not see

  // A request is over. `status`: 0 or what the client was answered; anything that is no status counts as 0.
  void count(Source source, Outcome outcome, int status, uint64_t request_body, uint64_t response_body) {
    const auto from = static_cast<size_t>(source);
    const size_t digit = status >= 100 && status < 600 ? static_cast<size_t>(status) / 100 : 0;
    add(requests[from][static_cast<size_t>(outcome)][digit], 1);
    add(request_bytes[from], request_body);
    add(response_bytes[from], response_body);
  }

 private:
  static void add(std::atomic<uint64_t>& sum, uint64_t value) { sum.fetch_add(value, std::memory_order_relaxed); }
};

}  // namespace shunt::proxy
