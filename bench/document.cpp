#include <bench/document.hpp>
#include <fstream>

namespace shunt::bench {
namespace {

const char* mark_of(const Interval& ratio) {
  if (ratio.coverage < kCoverageMin) return "undecided";
  if (ratio.high < 1) return "slower";
  return ratio.low > 1 ? "faster" : "same";
}

struct Metric {
  const char* name;
  double Sample::*field;
};
constexpr Metric kMetrics[] = {
    {"cpu_ns_per_byte", &Sample::cpu_ns_per_byte},
    {"cpu_ns_per_message", &Sample::cpu_ns_per_message},
    {"p50_us", &Sample::p50_us},
    {"p99_us", &Sample::p99_us},
    {"p999_us", &Sample::p999_us},
    {"queued_bytes_max", &Sample::queued_bytes_max},
    {"cost_per_byte", &Sample::cost_per_byte},
    {"cost_per_message", &Sample::cost_per_message},
    {"gateway_cost_per_byte", &Sample::gateway_cost_per_byte},
    {"gateway_cost_per_message", &Sample::gateway_cost_per_message},
};

std::vector<double> column(const std::vector<Sample>& samples, double Sample::*field) {
  std::vector<double> values;
  for (const Sample& sample : samples) values.push_back(sample.error.empty() ? sample.*field : 0);
  return values;
}

double median_of_successes(const std::vector<double>& values) {
  std::vector<double> known;
  for (double value : values) {
    if (value > 0) known.push_back(value);
  }
  return median(known);
}

Json describe_variant(const std::vector<Sample>& samples, const std::vector<Sample>* base) {
  Json json;
  std::vector<double> values = column(samples, &Sample::value);
  json["value"] = median_of_successes(values);
  for (const Metric& metric : kMetrics) {
    double middle = median_of_successes(column(samples, metric.field));
    if (middle > 0) json[metric.name] = middle;
  }
  std::vector<double> shares;
  Json errors = Json::array();
  for (const Sample& sample : samples) {
    if (sample.error.empty() && sample.redirected_share >= 0) shares.push_back(sample.redirected_share);
    if (!sample.error.empty()) errors.push_back(sample.error);
  }
  if (!shares.empty()) json["redirected_share"] = median(shares);
  json["rounds"] = values;
  std::vector<double> p50 = column(samples, &Sample::p50_us);
  if (median_of_successes(p50) > 0) json["p50_us_rounds"] = p50;
  json["failures"] = errors;
  if (base && base != &samples) {
    Interval ratio = median_interval(paired_ratios(values, column(*base, &Sample::value)));
    json["ratio"] = interval_json(ratio);
    json["mark"] = mark_of(ratio);
  }
  return json;
}

Json describe_series(const Series& series, const std::string& base_name) {
  Json json = {{"name", series.name}, {"group", series.group}, {"unit", series.unit}, {"cpus", series.cpus}};
  if (series.message_bytes) json["message_bytes"] = series.message_bytes;
  auto base = series.samples.find(base_name);
  json["variants"] = Json::object();
  for (const std::string& variant : series.variants) {
    auto samples = series.samples.find(variant);
    if (samples == series.samples.end()) continue;
    json["variants"][variant] =
        describe_variant(samples->second, base == series.samples.end() ? nullptr : &base->second);
  }
  return json;
}

const Json* find_variant(const Json& document, const std::string& cell, const std::string& variant) {
  for (const Json& candidate : document.at("cells")) {
    if (candidate.at("name") != cell) continue;
    auto found = candidate.at("variants").find(variant);
    return found == candidate.at("variants").end() ? nullptr : &*found;
  }
  return nullptr;
}

}  // namespace

Json interval_json(const Interval& interval) {
  return {{"median", interval.median},
          {"low", interval.low},
          {"high", interval.high},
          {"coverage", interval.coverage},
          {"rounds", interval.count}};
}

Json make_document(const DocumentHead& head, const std::vector<Series>& all) {
  Json document;
  document["kind"] = "shunt-bench";
  document["format"] = kDocumentFormat;
  document["environment"] = describe_environment();
  document["base"] = {{"name", head.base}, {"text", head.base_text}};
  document["plan"] = head.plan;
  document["method"] = {
      {"ratio", "of each round's value to that of " + head.base_text +
                    " in the same round, higher is better; the median over the rounds"},
      {"interval",
       "of the median by order statistics: x(k) to x(n+1-k) of the n sorted ratios, k the largest with 1 - 2 "
       "P(Binomial(n, "
       "1/2) < k) >= 0.95; below six rounds minimum and maximum, and coverage says what they are worth"},
      {"integrity", head.integrity},
      {"hashing", "one-way runs include hashing by the reader, at environment.hash_bytes_per_s, in every variant"}};
  document["variants"] = head.variants;
  document["problems"] = Json::array();
  document["cells"] = Json::array();
  for (const Series& series : all) document["cells"].push_back(describe_series(series, head.base));
  return document;
}

Json make_document(const Plan& plan, int rounds_done, const std::vector<Series>& all) {
  DocumentHead head;
  head.base = "plain";
  head.base_text = "plain TCP";
  head.plan = {{"rounds", plan.rounds},         {"rounds_done", rounds_done},
               {"seconds", plan.seconds},       {"stack_seconds", plan.stack_seconds},
               {"stack_cpus", plan.stack_cpus}, {"seed", plan.seed},
               {"interrupted", interrupted()}};
  head.integrity =
      "one-way: XXH3 of all bytes sent against all bytes received; ping-pong and connect: numbered messages, every "
      "64th "
      "compared whole; wrk: each answer of a run before the timed ones compared with the file";
  for (const VariantInfo& info : kVariants) head.variants[info.name] = info.text;
  return make_document(head, all);
}

Result<Json> load_document(const std::string& path) {
  std::ifstream file(path);
  if (!file) return unexpected(errno, path);
  Json document = Json::parse(file, nullptr, false);
  if (document.is_discarded() || !document.is_object() || document.value("kind", "") != "shunt-bench" ||
      !document.contains("cells")) {
    return unexpected(Error{EINVAL, path + " is not a report of shunt bench", "make one with --out"});
  }
  if (document.value("format", 0) != kDocumentFormat) {
    return unexpected(Error{EINVAL, path + " has another format than this program writes", "measure again"});
  }
  return document;
}

Interval ratio_of(const Json& document, const std::string& cell, const std::string& variant, const std::string& base,
                  const std::string& metric) {
  const Json* over = find_variant(document, cell, variant);
  const Json* under = find_variant(document, cell, base);
  const bool lower_is_better = metric == "p50_us";
  const char* rounds = lower_is_better ? "p50_us_rounds" : "rounds";
  if (!over || !under || !over->contains(rounds) || !under->contains(rounds)) return {};
  if (lower_is_better) std::swap(over, under);
  return median_interval(paired_ratios(over->at(rounds), under->at(rounds)));
}

std::vector<std::string> failures(const Json& document) {
  std::vector<std::string> all;
  for (const Json& cell : document.at("cells")) {
    for (const auto& [variant, result] : cell.at("variants").items()) {
      for (const Json& failure : result.at("failures")) {
        all.push_back(cell.at("name").get<std::string>() + " " + variant + ": " + failure.get<std::string>());
      }
    }
  }
  return all;
}

}  // namespace shunt::bench
