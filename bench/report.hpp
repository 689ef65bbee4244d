// The report as text for a terminal and as one self-contained HTML page.
#pragma once

#include <bench/environment.hpp>
#include <string>

namespace shunt::bench {

std::string terminal_report(const Json& document);
std::string html_report(const Json& document);

// Two reports side by side: how the ratios of the second differ from those of the first.
Json compare_documents(const Json& before, const Json& after);
std::string terminal_comparison(const Json& comparison);
std::string html_comparison(const Json& comparison, const Json& before, const Json& after);

// "1.23 GB/s", "73.6 k/s".
std::string rate_text(double value, const std::string& unit);
// "1.52 [1.49 1.55] faster": the interval, and a mark where it does not hold 1.
std::string ratio_text(const Json& ratio, const std::string& mark);

}  // namespace shunt::bench
