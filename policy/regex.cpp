#include <algorithm>
#include <base/parse.hpp>
#include <cctype>
#include <memory>
#include <optional>
#include <policy/regex.hpp>

namespace shunt::policy {
namespace {

constexpr int kRepeatMax = 1000;  // RE2's
constexpr int kDepthMax = 200;
constexpr size_t kClosureStepsMax = size_t{1} << 23;

struct Tree {
  enum class Kind { empty, set, cat, alt, repeat, begin, end, unknown };
  Kind kind = Kind::empty;
  ByteSet set;
  std::vector<Tree> parts;
  int min = 0;
  int max = 0;  // -1: no limit
};

Tree leaf(Tree::Kind kind) {
  Tree tree;
  tree.kind = kind;
  return tree;
}

Tree set_of(const ByteSet& set) {
  Tree tree = leaf(Tree::Kind::set);
  tree.set = set;
  return tree;
}

ByteSet range(unsigned low, unsigned high) {
  ByteSet set;
  for (unsigned c = low; c <= high && c < 128; c++) set.set(c);
  return set;
}

ByteSet ascii() { return range(0, 127); }
ByteSet digits() { return range('0', '9'); }
ByteSet words() { return range('a', 'z') | range('A', 'Z') | digits() | range('_', '_'); }

ByteSet spaces() {
  ByteSet set;
  for (const char c : {' ', '\t', '\n', '\f', '\r'}) set.set(static_cast<unsigned char>(c));
  return set;
}

std::optional<ByteSet> posix_class(const std::string& name) {
  const ByteSet lower = range('a', 'z');
  const ByteSet upper = range('A', 'Z');
  const ByteSet graph = range('!', '~');
  if (name == "alnum") return lower | upper | digits();
  if (name == "alpha") return lower | upper;
  if (name == "ascii") return ascii();
  if (name == "blank") return range(' ', ' ') | range('\t', '\t');
  if (name == "cntrl") return range(0, 0x1f) | range(0x7f, 0x7f);
  if (name == "digit") return digits();
  if (name == "graph") return graph;
  if (name == "lower") return lower;
  if (name == "print") return range(' ', '~');
  if (name == "punct") return graph & ~(lower | upper | digits());
  if (name == "space") return spaces() | range('\v', '\v');
  if (name == "upper") return upper;
  if (name == "word") return words();
  if (name == "xdigit") return digits() | range('a', 'f') | range('A', 'F');
  return std::nullopt;
}

struct SyntaxError {
  size_t at;  // bytes before it
  std::string message;
  std::string remedy;
};

// Recursive descent; throws SyntaxError, which does not leave this file.
class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  Tree parse() {
    Tree tree = alternatives(0);
    if (at_ < text_.size()) fail("a ')' without '('");
    return tree;
  }

  const std::string& refused() const { return refused_; }

 private:
  struct Flags {
    bool fold = false;     // i
    bool dot_all = false;  // s
  };

  [[noreturn]] void fail(const std::string& message, const std::string& remedy = {}) const {
    throw SyntaxError{at_, message, remedy};
  }
  bool more() const { return at_ < text_.size(); }
  bool next_is(std::string_view word) const { return text_.compare(at_, word.size(), word) == 0; }
  bool take(std::string_view word) {
    if (!next_is(word)) return false;
    at_ += word.size();
    return true;
  }
  Tree refuse(const std::string& why) {
    if (refused_.empty()) refused_ = why;
    return leaf(Tree::Kind::unknown);
  }

  Tree alternatives(int depth) {
    if (depth > kDepthMax) fail("parentheses nested too deeply");
    Tree all = leaf(Tree::Kind::alt);
    all.parts.push_back(sequence(depth));
    while (take("|")) all.parts.push_back(sequence(depth));
    return all.parts.size() == 1 ? std::move(all.parts.front()) : all;
  }

  Tree sequence(int depth) {
    Tree all = leaf(Tree::Kind::cat);
    while (more() && !next_is("|") && !next_is(")")) {
      if (take("\\Q")) {
        quoted(all);
        continue;
      }
      std::optional<Tree> item = atom(depth);
      if (!item && !all.parts.empty()) {
        // As in RE2, a repetition after flags belongs to what stands before them.
        item = std::move(all.parts.back());
        all.parts.pop_back();
      }
      if (item) all.parts.push_back(repeated(std::move(*item)));
    }
    return all.parts.size() == 1 ? std::move(all.parts.front()) : all;
  }

  void quoted(Tree& all) {
    while (more() && !take("\\E")) {
      Tree item = literal(character());
      const bool ended = take("\\E");
      // A repetition after the quoted text belongs to its last character.
      all.parts.push_back(ended ? repeated(std::move(item)) : std::move(item));
      if (ended) return;
    }
  }

  Tree repeated(Tree item) {
    const auto count = repetition();
    if (!count) return item;
    Tree tree = leaf(Tree::Kind::repeat);
    tree.min = count->first;
    tree.max = count->second;
    tree.parts.push_back(std::move(item));
    take("?");  // lazy: the same texts match
    const size_t before = at_;
    if (repetition()) {
      at_ = before;
      fail("two repetitions of one thing", "put the first into parentheses");
    }
    return tree;
  }

  // The bounds of a repetition that stands here, which is taken.
  std::optional<std::pair<int, int>> repetition() {
    if (take("*")) return std::pair(0, -1);
    if (take("+")) return std::pair(1, -1);
    if (take("?")) return std::pair(0, 1);
    const size_t start = at_;
    if (!take("{")) return std::nullopt;
    const auto low = number();
    std::optional<int> high = low;
    if (low && take(",")) {
      high = next_is("}") ? std::optional(-1) : number();
    }
    if (!low || !high || !take("}")) {
      at_ = start;
      return std::nullopt;  // a brace like any other character
    }
    if (*low > kRepeatMax || *high > kRepeatMax) fail("a repetition of more than 1000");
    if (*high >= 0 && *high < *low) fail("a repetition whose end lies before its beginning");
    return std::pair(*low, *high);
  }

  std::optional<int> number() {
    const size_t start = at_;
    int value = 0;
    while (more() && std::isdigit(static_cast<unsigned char>(text_[at_]))) {
      value = std::min(value * 10 + (text_[at_++] - '0'), 100'000);
    }
    return at_ == start ? std::nullopt : std::optional(value);
  }

  // One thing that may be repeated; none for flags, which hold from here on.
  std::optional<Tree> atom(int depth) {
    if (take("(")) return group(depth);
    if (take("[")) return set_of(folded(char_class()));
    if (take(".")) return set_of(flags_.dot_all ? ascii() : ascii() & ~range('\n', '\n'));
    if (take("^")) return leaf(Tree::Kind::begin);
    if (take("$")) return leaf(Tree::Kind::end);
    if (next_is("*") || next_is("+") || next_is("?")) fail("a repetition of nothing");
    if (next_is("{") && repetition()) fail("a repetition of nothing");
    if (next_is("\\")) return escape();
    return literal(character());
  }

  std::optional<Tree> group(int depth) {
    const Flags outside = flags_;
    if (take("?")) {
      for (const char* around : {"=", "!", "<=", "<!"}) {
        if (take(around)) {
          close_group(depth, outside);
          return refuse("an assertion that looks around");
        }
      }
      if (take("P<") || take("<")) {
        const size_t start = at_;
        while (more() && (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '_')) at_++;
        if (at_ == start || !take(">")) fail("a group with a bad name");
      } else if (!read_flags()) {
        return std::nullopt;
      }
    }
    return close_group(depth, outside);
  }

  Tree close_group(int depth, const Flags& outside) {
    Tree inner = alternatives(depth + 1);
    if (!take(")")) fail("a '(' without ')'");
    flags_ = outside;
    return inner;
  }

  // "i:", "i)", "-s:" and so on, after "(?". True: a group follows.
  bool read_flags() {
    bool on = true;
    bool any = false;
    while (more()) {
      const char c = text_[at_++];
      if (c == ':' || c == ')') {
        if ((!on || c == ')') && !any) break;
        return c == ':';
      }
      if (c == '-' && on) {
        on = any = false;
      } else if (c == 'i' || c == 's' || c == 'm' || c == 'U') {
        if (c == 'i') flags_.fold = on;
        if (c == 's') flags_.dot_all = on;
        any = true;
      } else {
        break;
      }
    }
    at_ = std::min(at_, text_.size());
    fail("an unknown kind of group");
  }

  // One code point, not beyond 0x10ffff.
  uint32_t character() {
    const auto first = static_cast<unsigned char>(text_[at_]);
    const int more_bytes = first < 0x80 ? 0 : first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if ((first >= 0x80 && first < 0xc2) || first > 0xf4 || at_ + more_bytes >= text_.size()) fail("this is not UTF-8");
    uint32_t value = more_bytes == 0 ? first : first & (0x3f >> more_bytes);
    at_++;
    for (int i = 0; i < more_bytes; i++) {
      const auto byte = static_cast<unsigned char>(text_[at_]);
      if ((byte & 0xc0) != 0x80) fail("this is not UTF-8");
      value = value << 6 | (byte & 0x3f);
      at_++;
    }
    return value;
  }

  ByteSet folded(ByteSet set) const {
    if (!flags_.fold) return set;
    for (unsigned c = 'a'; c <= 'z'; c++) {
      if (set[c] || set[c - 32]) set.set(c).set(c - 32);
    }
    return set;
  }

  // Characters outside ASCII match nothing here: texts with them are not given to automata.
  Tree literal(uint32_t c) const { return set_of(c < 128 ? folded(range(c, c)) : ByteSet()); }

  std::optional<Tree> escape() {
    at_++;
    if (!more()) fail("a backslash at the end");
    const char c = text_[at_];
    if (const auto known = perl_class(c)) {
      at_++;
      return set_of(*known);
    }
    if (take("A")) return leaf(Tree::Kind::begin);
    if (take("z")) return leaf(Tree::Kind::end);
    if (take("b") || take("B")) return refuse("a word boundary");
    if (take("C")) return refuse("\\C");
    if (take("E")) return std::nullopt;
    if (c == 'p' || c == 'P') return unicode_class();
    if (take("k<")) {
      while (more() && !next_is(">")) at_++;
      if (!take(">")) fail("a backreference without an end");
      return refuse("a backreference");
    }
    const bool octal_follows = at_ + 1 < text_.size() && text_[at_ + 1] >= '0' && text_[at_ + 1] <= '7';
    if (c == '8' || c == '9' || (c >= '1' && c <= '7' && !octal_follows)) {
      at_++;
      return refuse("a backreference");
    }
    return literal(escaped_character());
  }

  Tree unicode_class() {
    at_++;
    if (take("{")) {
      while (more() && !next_is("}")) at_++;
      if (!take("}")) fail("a class of Unicode without an end");
    } else if (more()) {
      character();
    } else {
      fail("a class of Unicode without a name");
    }
    return refuse("a class of Unicode");
  }

  static std::optional<ByteSet> perl_class(char c) {
    switch (c) {
      case 'd':
        return digits();
      case 'D':
        return ascii() & ~digits();
      case 'w':
        return words();
      case 'W':
        return ascii() & ~words();
      case 's':
        return spaces();
      case 'S':
        return ascii() & ~spaces();
      default:
        return std::nullopt;
    }
  }

  // After the backslash.
  uint32_t escaped_character() {
    const char c = text_[at_];
    if (c >= '0' && c <= '7') {
      uint32_t value = 0;
      for (int i = 0; i < 3 && more() && text_[at_] >= '0' && text_[at_] <= '7'; i++)
        value = value * 8 + (text_[at_++] - '0');
      return value;
    }
    if (take("x")) return hexadecimal();
    constexpr std::string_view kLetters = "afnrtv";
    constexpr std::string_view kMeanings = "\a\f\n\r\t\v";
    const size_t letter = kLetters.find(c);
    if (letter != std::string_view::npos) {
      at_++;
      return static_cast<unsigned char>(kMeanings[letter]);
    }
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 || std::isalnum(byte)) fail("an unknown escape", "write the character alone");
    at_++;
    return byte;
  }

  uint32_t hexadecimal() {
    const bool braces = take("{");
    uint32_t value = 0;
    int count = 0;
    while (more() && std::isxdigit(static_cast<unsigned char>(text_[at_])) && (braces || count < 2)) {
      value = std::min<uint32_t>(value * 16 + static_cast<uint32_t>(std::stoi(text_.substr(at_, 1), nullptr, 16)),
                                 0x110000);
      at_++;
      count++;
    }
    if (count == 0 || (!braces && count != 2) || (braces && !take("}")) || value > 0x10ffff) fail("a bad \\x");
    return value;
  }

  // After the bracket.
  ByteSet char_class() {
    const size_t start = at_;
    const bool negated = take("^");
    ByteSet set;
    for (bool first = true; first || !next_is("]"); first = false) {
      if (!more()) {
        at_ = start;
        fail("a '[' without ']'");
      }
      if (take("[:")) {
        set |= named_class();
      } else {
        class_item(set);
      }
    }
    at_++;
    set = folded(set);
    return negated ? ascii() & ~set : set;
  }

  ByteSet named_class() {
    const bool negated = take("^");
    const size_t end = text_.find(":]", at_);
    const auto found = end == std::string::npos ? std::nullopt : posix_class(text_.substr(at_, end - at_));
    if (!found) fail("an unknown class of characters");
    at_ = end + 2;
    return negated ? ascii() & ~*found : *found;
  }

  void class_item(ByteSet& set) {
    if (next_is("\\") && at_ + 1 < text_.size()) {
      const char c = text_[at_ + 1];
      if (const auto known = perl_class(c)) {
        at_ += 2;
        set |= *known;
        return;
      }
      if (c == 'p' || c == 'P') {
        at_++;
        unicode_class();
        return;
      }
    }
    const uint32_t low = class_character();
    uint32_t high = low;
    if (next_is("-") && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
      at_++;
      high = class_character();
      if (high < low) fail("a range whose end lies before its beginning");
    }
    set |= range(low, high);
  }

  uint32_t class_character() {
    if (!more()) fail("a '[' without ']'");
    if (!take("\\")) return character();
    if (!more()) fail("a backslash at the end");
    const char c = text_[at_];
    const bool octal_follows = at_ + 1 < text_.size() && text_[at_ + 1] >= '0' && text_[at_ + 1] <= '7';
    if (c >= '1' && c <= '7' && !octal_follows) fail("an unknown escape");
    return escaped_character();
  }

  const std::string& text_;
  size_t at_ = 0;
  Flags flags_;
  std::string refused_;
};

// How many nodes there will be at least, counted to `kPositionsMax` + 1.
uint32_t size_of(const Tree& tree) {
  uint64_t size = tree.parts.empty() ? 1 : 0;
  for (const Tree& part : tree.parts) size += size_of(part);
  if (tree.kind == Tree::Kind::repeat)
    size *= static_cast<uint64_t>(std::max({tree.min + (tree.max < 0 ? 1 : 0), tree.max, 1}));
  return static_cast<uint32_t>(std::min<uint64_t>(size, kPositionsMax + 1));
}

// Appends what every text begins with; false: from here on it is not simple.
bool append_prefix(const Tree& tree, std::string& prefix) {
  if (tree.kind == Tree::Kind::begin || tree.kind == Tree::Kind::empty) return true;
  if (tree.kind == Tree::Kind::set && tree.set.count() == 1) {
    prefix += static_cast<char>(tree.set._Find_first());
    return true;
  }
  return tree.kind == Tree::Kind::cat && std::all_of(tree.parts.begin(), tree.parts.end(),
                                                     [&](const Tree& part) { return append_prefix(part, prefix); });
}

// Thompson's construction: nodes with a set match a character, the others nothing.
class Builder {
 public:
  bool build(const Tree& tree, Expression& expression) {
    const uint32_t end = node(Kind::match);
    const uint32_t start = add(tree, end);
    std::vector<uint32_t> position(nodes_.size(), 0);
    for (uint32_t i = 0; i < nodes_.size(); i++) {
      if (nodes_[i].kind != Kind::set) continue;
      position[i] = static_cast<uint32_t>(expression.positions.size());
      expression.positions.push_back(nodes_[i].set);
    }
    seen_.assign(nodes_.size(), 0);
    const auto positions_after = [&](uint32_t from, bool at_begin, std::vector<uint32_t>& found) {
      for (const uint32_t i : closure(from, at_begin, false).sets) found.push_back(position[i]);
      std::sort(found.begin(), found.end());
    };
    positions_after(start, true, expression.first);
    expression.nullable = closure(start, true, true).matched;
    size_t pairs = 0;
    for (const Node& item : nodes_) {
      if (item.kind != Kind::set) continue;
      positions_after(item.out[0], false, expression.follow.emplace_back());
      pairs += expression.follow.back().size();
      expression.last.push_back(closure(item.out[0], false, true).matched);
      if (pairs > kFollowMax || steps_ > kClosureStepsMax) return false;
    }
    return true;
  }

 private:
  enum class Kind { set, split, begin, end, match };
  struct Node {
    Kind kind;
    ByteSet set;
    std::vector<uint32_t> out;
  };
  struct Closure {
    std::vector<uint32_t> sets;
    bool matched = false;
  };

  uint32_t node(Kind kind, std::vector<uint32_t> out = {}, const ByteSet& set = {}) {
    nodes_.push_back({kind, set, std::move(out)});
    return static_cast<uint32_t>(nodes_.size() - 1);
  }

  // The entry of the part that goes on to `next`.
  uint32_t add(const Tree& tree, uint32_t next) {
    switch (tree.kind) {
      case Tree::Kind::set:
        return node(Kind::set, {next}, tree.set);
      case Tree::Kind::begin:
        return node(Kind::begin, {next});
      case Tree::Kind::end:
        return node(Kind::end, {next});
      case Tree::Kind::cat:
        for (auto part = tree.parts.rbegin(); part != tree.parts.rend(); ++part) next = add(*part, next);
        return next;
      case Tree::Kind::alt: {
        std::vector<uint32_t> ways;
        for (const Tree& part : tree.parts) ways.push_back(add(part, next));
        return node(Kind::split, ways);
      }
      case Tree::Kind::repeat:
        return add_repeat(tree, next);
      case Tree::Kind::empty:
      case Tree::Kind::unknown:
        break;
    }
    return next;
  }

  uint32_t add_repeat(const Tree& tree, uint32_t next) {
    const Tree& part = tree.parts.front();
    uint32_t entry = next;
    if (tree.max < 0) {
      entry = node(Kind::split, {next});
      const uint32_t again = add(part, entry);
      nodes_[entry].out.push_back(again);
    }
    for (int i = tree.min; i < tree.max; i++) {
      const uint32_t once = add(part, entry);
      entry = node(Kind::split, {once, next});
    }
    for (int i = 0; i < tree.min; i++) entry = add(part, entry);
    return entry;
  }

  Closure closure(uint32_t from, bool at_begin, bool at_end) {
    Closure found;
    round_++;
    std::vector<uint32_t> todo{from};
    while (!todo.empty()) {
      const uint32_t i = todo.back();
      todo.pop_back();
      steps_++;
      if (seen_[i] == round_) continue;
      seen_[i] = round_;
      const Node& item = nodes_[i];
      if (item.kind == Kind::set) {
        found.sets.push_back(i);
      } else if (item.kind == Kind::match) {
        found.matched = true;
      } else if (item.kind == Kind::split || (item.kind == Kind::begin && at_begin) ||
                 (item.kind == Kind::end && at_end)) {
        todo.insert(todo.end(), item.out.begin(), item.out.end());
      }
    }
    return found;
  }

  std::vector<Node> nodes_;
  std::vector<uint32_t> seen_;
  uint32_t round_ = 0;
  size_t steps_ = 0;
};

}  // namespace

Result<void> check_regex(const std::string& text) {
  try {
    Parser(text).parse();
    return {};
  } catch (const SyntaxError& error) {
    return invalid(error.message + " at byte " + std::to_string(error.at + 1), error.remedy);
  }
}

Expression compile_regex(const std::string& text) {
  Expression expression;
  Parser parser(text);
  const Tree tree = parser.parse();
  append_prefix(tree, expression.prefix);
  expression.refused = parser.refused();
  if (expression.refused.empty() && (size_of(tree) > kPositionsMax || !Builder().build(tree, expression))) {
    expression.refused = "an expression that is too large";
  }
  if (!expression.refused.empty()) {
    expression.positions.clear();
    expression.follow.clear();
    expression.first.clear();
    expression.last.clear();
    expression.nullable = false;
  }
  return expression;
}

Expression any_text() {
  Expression expression;
  expression.positions = {ascii()};
  expression.follow = {{0}};
  expression.first = {0};
  expression.last = {true};
  expression.nullable = true;
  return expression;
}

bool Expression::matches(const std::string& text) const {
  if (text.empty()) return nullable;
  std::vector<bool> now(positions.size());
  for (const uint32_t i : first) now[i] = positions[i][static_cast<unsigned char>(text[0])];
  for (size_t at = 1; at < text.size(); at++) {
    std::vector<bool> next(positions.size());
    for (uint32_t i = 0; i < positions.size(); i++) {
      if (!now[i]) continue;
      for (const uint32_t j : follow[i]) {
        if (positions[j][static_cast<unsigned char>(text[at])]) next[j] = true;
      }
    }
    now = std::move(next);
  }
  for (uint32_t i = 0; i < positions.size(); i++) {
    if (now[i] && last[i]) return true;
  }
  return false;
}

}  // namespace shunt::policy
