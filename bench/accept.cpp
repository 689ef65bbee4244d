#include <fmt/format.h>

#include <bench/accept.hpp>
#include <bench/document.hpp>

namespace shunt::bench {
namespace {

struct Bar {
  std::string cell;
  const char* variant;
  const char* base;
  const char* metric;
  double bar;
  double prototype;  // what the prototype of the redirect reached before Shunt was built; 0: not known
};

std::vector<Bar> bars() {
  std::vector<Bar> all = {
      {"ping-pong/64B/1cpu", "shortcut", "plain", "value", 1.45, 1.54},
      {"ping-pong/1KiB/1cpu", "shortcut", "plain", "value", 1.45, 1.57},
      {"ping-pong/16KiB/1cpu", "shortcut", "plain", "value", 1.35, 1.40},
      {"ping-pong/64B/1cpu", "shortcut", "unix", "p50_us", 1.00, 1.09},
  };
  for (int cpus : {1, 2}) {
    for (const char* size : {"64B", "1KiB", "16KiB", "64KiB", "256KiB", "1MiB"}) {
      all.push_back({fmt::format("one-way/{}/{}cpu", size, cpus), "shortcut", "plain", "value", 0.97, 0});
    }
    all.push_back({fmt::format("connect/{}cpu", cpus), "shortcut", "plain", "value", 0.97, cpus == 1 ? 1.03 : 0});
  }
  all.push_back({"nginx/c1", "shortcut", "plain", "value", 1.2, 1.23});
  all.push_back({"nginx/c16", "shortcut", "plain", "value", 1.35, 1.44});
  all.push_back({"nginx/c128", "shortcut", "plain", "value", 1.3, 1.39});
  all.push_back({"nginx-chain/c16", "shortcut", "plain", "value", 1.4, 1.47});
  all.push_back({"haproxy-chain/c16", "shortcut", "plain", "value", 1.3, 1.33});
  for (const char* cell :
       {"ping-pong/64B/1cpu", "one-way/64KiB/1cpu", "connect/1cpu", "setsockopt-echo/1cpu", "setsockopt/1cpu"}) {
    all.push_back({cell, "excluded", "plain", "value", 0.99, 0});
  }
  all.push_back({"one-way/256KiB/1cpu", "half", "plain", "value", 0.97, 0});
  return all;
}

Json judge(const Json& document, const Bar& bar) {
  Interval ratio = ratio_of(document, bar.cell, bar.variant, bar.base, bar.metric);
  const bool latency = std::string(bar.metric) == "p50_us";
  Json json = {{"name", fmt::format("{}: {} / {}{}", bar.cell, latency ? bar.base : bar.variant,
                                    latency ? bar.variant : bar.base, latency ? ", p50" : "")},
               {"cell", bar.cell},
               {"ratio", interval_json(ratio)},
               {"bar", bar.bar}};
  const bool decided = ratio.coverage >= kCoverageMin;
  json["holds"] = decided && ratio.high >= bar.bar;
  json["verdict"] = ratio.count == 0        ? "not measured"
                    : !decided              ? "TOO FEW ROUNDS"
                    : ratio.high >= bar.bar ? "holds"
                                            : "FALLS SHORT";
  Interval bare = ratio_of(document, bar.cell, "bare", bar.base, bar.metric);
  if (std::string(bar.variant) == "shortcut" && bare.count > 0) json["bare"] = interval_json(bare);
  if (bar.prototype > 0) {
    json["prototype"] = bar.prototype;
    json["below_prototype"] = decided && ratio.high < bar.prototype;
  }
  return json;
}

}  // namespace

bool judge_bars(Json* document) {
  Json judged = Json::array();
  bool all_hold = true;
  for (const Bar& bar : bars()) {
    judged.push_back(judge(*document, bar));
    all_hold = all_hold && judged.back().at("holds").get<bool>();
  }
  (*document)["bars"] = judged;
  (*document)["all_bars_hold"] = all_hold;
  return all_hold;
}

}  // namespace shunt::bench
