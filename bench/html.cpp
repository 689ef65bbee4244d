#include <fmt/format.h>

#include <algorithm>
#include <bench/report.hpp>
#include <cmath>
#include <vector>

namespace shunt::bench {
namespace {

constexpr double kLabelWidth = 190, kPlotWidth = 640, kLineHeight = 15, kCellGap = 8, kAxisHeight = 34;

// Colours that stay apart for the colour-blind (Okabe and Ito).
constexpr const char* kColours[] = {"#000000", "#d55e00", "#e69f00", "#cc79a7",
                                    "#999999", "#0072b2", "#009e73", "#56b4e9"};

constexpr const char* kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{0}</title>
<style>
body{{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#111;background:#fff}}
h1{{font-size:1.5rem}} h2{{font-size:1.15rem;margin-top:2rem}}
pre{{overflow-x:auto;background:#f5f5f5;padding:.8rem;font-size:12.5px;line-height:1.35}}
svg text{{font:12px system-ui,sans-serif}} .legend span{{margin-right:1.2rem}} .legend i{{display:inline-block;width:.8em;height:.8em;margin-right:.35em}}
</style></head><body><h1>{0}</h1>
)";

std::string escape(const std::string& text) {
  std::string safe;
  for (char c : text) {
    if (c == '&')
      safe += "&amp;";
    else if (c == '<')
      safe += "&lt;";
    else if (c == '>')
      safe += "&gt;";
    else if (c == '"')
      safe += "&quot;";
    else
      safe += c;
  }
  return safe;
}

struct Dot {
  size_t colour;
  double value;
  double low;
  double high;
  std::string title;
};

struct PlotRow {
  std::string label;
  std::vector<Dot> dots;
};

// A logarithmic axis that holds all dots.
class Axis {
 public:
  explicit Axis(const std::vector<PlotRow>& rows, double reference)
      : low_(reference > 0 ? reference : 1e300), high_(reference) {
    for (const PlotRow& row : rows) {
      for (const Dot& dot : row.dots) {
        low_ = std::min(low_, dot.low);
        high_ = std::max(high_, dot.high);
      }
    }
    low_ /= 1.1;
    high_ *= 1.1;
  }
  double x(double value) const { return kLabelWidth + kPlotWidth * std::log(value / low_) / std::log(high_ / low_); }
  // 1, 2, 5 times a power of ten; of the powers only where many.
  std::vector<double> ticks() const {
    std::vector<double> all;
    const bool wide = high_ / low_ > 200;
    for (double power = std::pow(10, std::floor(std::log10(low_))); power <= high_; power *= 10) {
      for (double step : {1.0, 2.0, 5.0}) {
        double tick = power * step;
        if (tick >= low_ && tick <= high_ && (!wide || step == 1)) all.push_back(tick);
      }
    }
    return all;
  }

 private:
  double low_;
  double high_;
};

std::string draw_dot(const Axis& axis, const Dot& dot, double y) {
  const char* colour = kColours[dot.colour % std::size(kColours)];
  return fmt::format(
      "<g><title>{}</title><line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
      "stroke-width=\"2\"/>"
      "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"/></g>\n",
      escape(dot.title), axis.x(dot.low), axis.x(dot.high), y, y, colour, axis.x(dot.value), y, colour);
}

std::string draw_plot(const std::vector<PlotRow>& rows, double reference) {
  double height = kAxisHeight;
  for (const PlotRow& row : rows) height += double(row.dots.size()) * kLineHeight + kCellGap;
  Axis axis(rows, reference);
  std::string svg = fmt::format("<svg width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\">\n",
                                kLabelWidth + kPlotWidth + 20, height);
  for (double tick : axis.ticks()) {
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"20\" y2=\"{1}\" stroke=\"#ddd\"/>"
        "<text x=\"{0:.1f}\" y=\"13\" text-anchor=\"middle\">{2:g}</text>\n",
        axis.x(tick), height, tick);
  }
  if (reference > 0) {
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"18\" y2=\"{1}\" stroke=\"#111\" stroke-dasharray=\"4 3\"/>\n",
        axis.x(reference), height);
  }
  double y = kAxisHeight;
  for (const PlotRow& row : rows) {
    svg += fmt::format("<text x=\"0\" y=\"{:.1f}\">{}</text>\n", y + 4, escape(row.label));
    for (const Dot& dot : row.dots) {
      svg += draw_dot(axis, dot, y);
      y += kLineHeight;
    }
    y += kCellGap;
  }
  return svg + "</svg>\n";
}

size_t colour_of(const Json& document, const std::string& variant) {
  size_t index = 0;
  for (const auto& [name, text] : document.at("variants").items()) {
    if (name == variant) return index;
    index++;
  }
  return index;
}

std::string legend(const Json& document) {
  std::string html = "<p class=\"legend\">";
  for (const auto& [name, text] : document.at("variants").items()) {
    html += fmt::format("<span title=\"{}\"><i style=\"background:{}\"></i>{}</span>", escape(text.get<std::string>()),
                        kColours[colour_of(document, name) % std::size(kColours)], escape(name));
  }
  return html + "</p>\n";
}

std::vector<std::string> groups_of(const Json& document) {
  std::vector<std::string> groups;
  for (const Json& cell : document.at("cells")) {
    std::string group = cell.at("group");
    if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
  }
  return groups;
}

std::vector<PlotRow> ratio_rows(const Json& document, const std::string& group) {
  std::vector<PlotRow> rows;
  for (const Json& cell : document.at("cells")) {
    if (cell.at("group") != group) continue;
    PlotRow row = {cell.at("name"), {}};
    for (const auto& [variant, result] : cell.at("variants").items()) {
      if (!result.contains("ratio") || result.at("ratio").at("rounds") == 0) continue;
      const Json& ratio = result.at("ratio");
      row.dots.push_back({colour_of(document, variant), ratio.at("median"), ratio.at("low"), ratio.at("high"),
                          fmt::format("{} {}: {} ({})", row.label, variant, ratio_text(ratio, ""),
                                      rate_text(result.at("value"), cell.at("unit")))});
    }
    if (!row.dots.empty()) rows.push_back(row);
  }
  return rows;
}

// From p50 (the dot) to p99.9 or, where that is not known, p99.
std::vector<PlotRow> latency_rows(const Json& document) {
  std::vector<PlotRow> rows;
  for (const Json& cell : document.at("cells")) {
    PlotRow row = {cell.at("name"), {}};
    for (const auto& [variant, result] : cell.at("variants").items()) {
      if (!result.contains("p50_us") || !result.contains("p99_us")) continue;
      double p50 = result.at("p50_us"), p99 = result.at("p99_us");
      double last = result.value("p999_us", p99);
      row.dots.push_back(
          {colour_of(document, variant), p50, p50, std::max(p50, last),
           fmt::format("{} {}: p50 {:.1f}, p99 {:.1f}, p99.9 {:.1f} us", row.label, variant, p50, p99, last)});
    }
    if (!row.dots.empty()) rows.push_back(row);
  }
  return rows;
}

}  // namespace

std::string html_report(const Json& document) {
  std::string html = fmt::format(fmt::runtime(kHead), "shunt bench");
  html += fmt::format(
      "<p>{}, {}, {} usable CPUs, {}. Dots are medians of rounds in which all variants ran in turns, lines their "
      "95 % intervals. The dashed line is {}; right of it is faster.</p>\n",
      escape(document.at("environment").at("cpu")), escape(document.at("environment").at("kernel")),
      document.at("environment").at("usable_cpus").get<int>(), escape(document.at("environment").at("time")),
      escape(document.at("base").at("text")));
  html += legend(document);
  for (const std::string& group : groups_of(document)) {
    std::vector<PlotRow> rows = ratio_rows(document, group);
    if (rows.empty()) continue;
    html += fmt::format("<h2>{}: ratio to {}</h2>\n{}", escape(group), escape(document.at("base").at("text")),
                        draw_plot(rows, 1));
  }
  if (std::vector<PlotRow> rows = latency_rows(document); !rows.empty()) {
    html += "<h2>latency in microseconds: p50 (dot) to p99.9</h2>\n" + draw_plot(rows, 0);
  }
  html += "<h2>tables</h2>\n<pre>" + escape(terminal_report(document)) + "</pre>\n";
  html += "<h2>how it was measured</h2>\n<dl>";
  for (const auto& [name, text] : document.at("method").items()) {
    html += fmt::format("<dt><b>{}</b></dt><dd>{}</dd>", escape(name), escape(text.get<std::string>()));
  }
  html += "</dl>\n<details><summary>all data</summary><pre>" + escape(document.dump(1)) +
          "</pre></details>\n</body></html>\n";
  return html;
}

std::string html_comparison(const Json& comparison, const Json& before, const Json& after) {
  std::string html = fmt::format(fmt::runtime(kHead), "shunt bench: comparison");
  html += fmt::format(
      "<p>before: shunt {} at {}; after: shunt {} at {}. Each variant has two lines, before and after.</p>\n",
      escape(before.at("environment").at("shunt")), escape(before.at("environment").at("time")),
      escape(after.at("environment").at("shunt")), escape(after.at("environment").at("time")));
  html += legend(after);
  std::vector<PlotRow> rows;
  for (const Json& cell : comparison.at("cells")) {
    PlotRow row = {cell.at("name"), {}};
    for (const auto& [variant, entry] : cell.at("variants").items()) {
      for (const char* side : {"ratio_before", "ratio_after"}) {
        if (!entry.contains(side) || entry.at(side).at("rounds") == 0) continue;
        const Json& ratio = entry.at(side);
        row.dots.push_back({colour_of(after, variant), ratio.at("median"), ratio.at("low"), ratio.at("high"),
                            fmt::format("{} {} {}: {}", row.label, variant, side + 6, ratio_text(ratio, ""))});
      }
    }
    if (!row.dots.empty()) rows.push_back(row);
  }
  if (!rows.empty()) html += "<h2>ratio to " + escape(after.at("base").at("text")) + "</h2>\n" + draw_plot(rows, 1);
  html += "<h2>table</h2>\n<pre>" + escape(terminal_comparison(comparison)) + "</pre>\n</body></html>\n";
  return html;
}

}  // namespace shunt::bench
