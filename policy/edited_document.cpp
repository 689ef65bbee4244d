#include <algorithm>
#include <policy/document_reader.hpp>
#include <policy/edited_document.hpp>
#include <string_view>

namespace shunt::policy {
namespace {

constexpr size_t kLinesMax = 1000;  // of what is read anew
constexpr const char* kEndMark = "/end";

// Where each line begins, and what is past the last; without the lines all texts have in common.
using Lines = std::vector<size_t>;

// Lines [begin, end), from 0.
struct Range {
  size_t begin = 0, end = 0;
  size_t size() const { return end - begin; }
};

Lines lines_of(const std::string& text) {
  Lines lines = {0};
  for (size_t at = 0; (at = text.find('\n', at)) != std::string::npos;) lines.push_back(++at);
  if (lines.back() != text.size()) lines.push_back(text.size());
  return lines;
}

std::string_view line_at(const std::string& text, const Lines& lines, size_t number) {
  return std::string_view(text).substr(lines[number], lines[number + 1] - lines[number]);
}

// An http rule and where it is.
struct Item {
  size_t line;    // from 0
  size_t column;  // of its dash, from 0
  size_t policy, rule, index;
};

// In the order of their lines.
std::vector<Item> items_of(const Document& document) {
  std::vector<Item> items;
  for (size_t p = 0; p < document.policies.size(); p++) {
    const std::vector<Rule>& rules = document.policies[p]->rules;
    for (size_t r = 0; r < rules.size(); r++) {
      for (size_t i = 0; i < rules[r].http.size(); i++) {
        const Place& place = rules[r].http[i].place;
        items.push_back(
            {static_cast<size_t>(place.line - 1), static_cast<size_t>(std::max(place.column - 3, 0)), p, r, i});
      }
    }
  }
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.line < b.line; });
  return items;
}

bool of_one_list(const Item& a, const Item& b) {
  return a.policy == b.policy && a.rule == b.rule && a.column == b.column;
}

// Is the line a part of the item that begins with a dash in that column, and the first one?
bool begins_item(std::string_view line, size_t column) {
  return line.find_first_not_of(' ') == column && line.substr(column).starts_with("- ");
}
bool goes_on(std::string_view line, size_t column) {
  const size_t first = line.find_first_not_of(' ');
  return first != std::string_view::npos && first > column && line[first] != '#' && line[first] != '\n' &&
         line[first] != '\r' && line[first] != '\t';
}

bool are_items(const std::string& text, const Lines& lines, Range range, size_t column) {
  if (range.size() == 0 || range.size() > kLinesMax || range.end >= lines.size()) return false;
  if (!begins_item(line_at(text, lines, range.begin), column)) return false;
  for (size_t line = range.begin; line < range.end; line++) {
    const std::string_view one = line_at(text, lines, line);
    if (!begins_item(one, column) && !goes_on(one, column)) return false;
  }
  return true;
}

// What is not deeper ends all that is open, but quotes and brackets.
bool ends_before(const std::string& text, const Lines& lines, size_t line, size_t column) {
  if (line + 1 >= lines.size()) return line + 1 == lines.size();
  const std::string_view next = line_at(text, lines, line);
  const size_t first = next.find_first_not_of(' ');
  return first != std::string_view::npos && first <= column && next[first] != '#' && next[first] != '\n' &&
         next[first] != '\r' && next[first] != '\t';
}

// The rules of these lines alone; absent: there is a problem, or something to note. Another item behind them shows that
// they leave nothing open: a quote reaches up to the end of a text without being a problem.
std::optional<std::vector<HttpRule>> read_items(const std::string& text, const Lines& lines, Range range,
                                                size_t column) {
  std::vector<Problem> problems;
  YamlReader yaml(problems);
  Document nothing;
  DocumentReader reader(yaml, nothing);
  std::vector<HttpRule> rules;
  std::string part = text.substr(lines[range.begin], lines[range.end] - lines[range.begin]);
  if (!part.ends_with('\n')) part += '\n';
  part += std::string(column, ' ') + "- {path: " + kEndMark + "}\n";
  yaml.part({"", part}, 0, [&](const YAML::Node& node) { rules = reader.read_http_rules(node); });
  if (!problems.empty() || !nothing.notes.empty() || rules.size() < 2) return std::nullopt;
  const HttpRule& end = rules.back();
  if (end.path != kEndMark || end.place.line != static_cast<int>(range.size()) + 1) return std::nullopt;
  rules.pop_back();
  for (HttpRule& rule : rules) rule.place.line += static_cast<int>(range.begin);
  return rules;
}

void shift(Place& place, size_t past, int by) {
  if (place.line > static_cast<int>(past)) place.line += by;
}

// All that stands behind the lines before `past` moves.
void move_behind(Document& document, Policy& policy, size_t past, int by) {
  for (Rule& rule : policy.rules) {
    shift(rule.place, past, by);
    for (HttpRule& http : rule.http) shift(http.place, past, by);
    for (RedisRule& redis : rule.redis) shift(redis.place, past, by);
  }
  for (auto& [title, place] : document.titles) shift(place, past, by);
  for (Problem& note : document.notes) {
    if (note.line > static_cast<int>(past)) note.line += by;
  }
}

struct Difference {
  Range before, now;
};

// Lines that are not the same in both.
Difference difference(const std::string& before, const Lines& lines_before, const std::string& now,
                      const Lines& lines_now) {
  const auto same = [&](size_t a, size_t b) { return line_at(before, lines_before, a) == line_at(now, lines_now, b); };
  const size_t count_before = lines_before.size() - 1, count_now = lines_now.size() - 1;
  size_t begin = 0, tail = 0;
  const size_t both = std::min(count_before, count_now);
  while (begin < both && same(begin, begin)) begin++;
  while (tail < both - begin && same(count_before - 1 - tail, count_now - 1 - tail)) tail++;
  return {{begin, count_before - tail}, {begin, count_now - tail}};
}

bool equal(const std::vector<HttpRule>& rules, const std::vector<HttpRule>& all, size_t first) {
  if (first + rules.size() > all.size()) return false;
  for (size_t i = 0; i < rules.size(); i++) {
    const HttpRule& other = all[first + i];
    if (!rules[i].same(other) || rules[i].place.line != other.place.line || rules[i].place.column != other.place.column)
      return false;
  }
  return true;
}

}  // namespace

// The lines of the old items are read alone, too: that they give the rules that the whole document gave shows that
// nothing from before reaches into them, and nothing of them beyond. The new ones stand in their place.
std::optional<Document> edited_document(const std::string& text_before, const Document& before,
                                        const std::string& text) {
  const Lines lines_before = lines_of(text_before), lines = lines_of(text);
  Difference changed = difference(text_before, lines_before, text, lines);
  const std::vector<Item> items = items_of(before);
  // With the item before it, if something only came or only went.
  const bool one_sided = changed.before.size() == 0 || changed.now.size() == 0;
  const size_t inside = changed.before.begin - (one_sided && changed.before.begin > 0 ? 1 : 0);
  const auto past = std::upper_bound(items.begin(), items.end(), inside,
                                     [](size_t line, const Item& item) { return line < item.line; });
  if (past == items.begin()) return std::nullopt;
  const Item& first = *(past - 1);
  auto next = past;
  while (next != items.end() && next->line < changed.before.end) ++next;
  const Item& last = *(next - 1);
  if (!of_one_list(first, last) || last.index - first.index != static_cast<size_t>(next - past)) return std::nullopt;
  size_t end = last.line + 1;
  while (end < lines_before.size() - 1 && goes_on(line_at(text_before, lines_before, end), first.column)) end++;
  if (end < changed.before.end || first.line > changed.now.begin) return std::nullopt;
  const Range old_lines{first.line, end};
  const Range new_lines{first.line, end + changed.now.end - changed.before.end};
  if (!are_items(text_before, lines_before, old_lines, first.column) ||
      !are_items(text, lines, new_lines, first.column))
    return std::nullopt;
  if (!ends_before(text_before, lines_before, end, first.column)) return std::nullopt;

  const auto old_rules = read_items(text_before, lines_before, old_lines, first.column);
  auto rules = read_items(text, lines, new_lines, first.column);
  const Policy& policy_before = *before.policies[first.policy];
  if (!old_rules || !rules || !equal(*old_rules, policy_before.rules[first.rule].http, first.index) ||
      old_rules->size() != last.index - first.index + 1)
    return std::nullopt;
  const int moved = static_cast<int>(new_lines.end) - static_cast<int>(old_lines.end);
  if (moved != 0 && before.policies.size() != 1) return std::nullopt;

  Document document = before;
  auto policy = std::make_shared<Policy>(policy_before);
  if (moved != 0) move_behind(document, *policy, old_lines.end, moved);
  std::vector<HttpRule>& http = policy->rules[first.rule].http;
  const auto place = http.erase(http.begin() + static_cast<ptrdiff_t>(first.index),
                                http.begin() + static_cast<ptrdiff_t>(last.index + 1));
  http.insert(place, std::make_move_iterator(rules->begin()), std::make_move_iterator(rules->end()));
  document.policies[first.policy] = std::move(policy);
  document.request_rules += rules->size();
  document.request_rules -= old_rules->size();
  return document;
}

}  // namespace shunt::policy
