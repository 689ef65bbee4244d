// The report as one JSON document: what `-o json` prints, and what the tables, the page, the comparison and the bars
// are made from, so that they cannot say anything else.
#pragma once

#include <base/result.hpp>
#include <bench/environment.hpp>
#include <bench/schedule.hpp>
#include <bench/stats.hpp>

namespace shunt::bench {

inline constexpr int kDocumentFormat = 2;
// An interval of fewer than six rounds decides nothing: neither a mark nor a bar.
inline constexpr double kCoverageMin = 0.95;

// What a report says beside its cells.
struct DocumentHead {
  std::string base;       // the variant that the others are compared with
  std::string base_text;  // "plain TCP"
  Json plan;
  Json integrity;  // how it is checked
  Json variants;   // what each is
};

Json interval_json(const Interval& interval);
Json make_document(const DocumentHead& head, const std::vector<Series>& all);
Json make_document(const Plan& plan, int rounds_done, const std::vector<Series>& all);
Result<Json> load_document(const std::string& path);

// The interval of paired ratios between two variants of a cell: higher is better, also for "p50_us", where it is base /
// variant. No rounds: the cell or a variant is not there.
Interval ratio_of(const Json& document, const std::string& cell, const std::string& variant, const std::string& base,
                  const std::string& metric = "value");

// Runs that failed, as "cell variant: why".
std::vector<std::string> failures(const Json& document);

}  // namespace shunt::bench
