// Documents as people read them on a terminal.
#pragma once

#include <control/documents.hpp>
#include <string>
#include <vector>

namespace shunt {

// Colours, only where somebody looks: on a terminal, and not with NO_COLOR.
class Style {
 public:
  explicit Style(bool colours) : colours_(colours) {}
  static Style of_stdout();
  std::string bold(const std::string& text) const { return wrap("1", text); }
  std::string green(const std::string& text) const { return wrap("32", text); }
  std::string yellow(const std::string& text) const { return wrap("33", text); }
  std::string red(const std::string& text) const { return wrap("31", text); }
  std::string dim(const std::string& text) const { return wrap("2", text); }

 private:
  std::string wrap(const char* code, const std::string& text) const;
  bool colours_;
};

// Columns as wide as their widest cell; the last is not padded.
class Table {
 public:
  enum class Align { left, right };
  struct Column {
    std::string title;
    Align align = Align::left;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  std::string text(const Style& style) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

std::string human_bytes(uint64_t bytes);    // "1.5 MiB"
std::string human_count(uint64_t count);    // "1,234,567"
std::string human_seconds(double seconds);  // "3m 20s"

std::string render_status(const Json& status, const Style& style);
std::string render_list(std::vector<Json> rows, uint64_t total, const Style& style);
std::string render_why(const Json& why, const Style& style);
std::string render_check(const Json& probe, const Style& style);
std::string render_drain(const Json& report, bool removed, const Style& style);
std::string render_policy(const Json& policy, const Style& style);
std::string render_trace(const Json& trace, const Style& style);
std::string render_event(const Json& event, const Style& style);

}  // namespace shunt
