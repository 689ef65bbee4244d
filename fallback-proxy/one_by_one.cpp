#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <fallback-proxy/fields.hpp>
#include <fallback-proxy/one_by_one.hpp>

namespace shunt::proxy {
namespace {

// Backtracking has no bound of its own: enough for any usual text, and a few milliseconds at most.
constexpr uint32_t kMatchLimit = 100'000;
constexpr uint32_t kDepthLimit = 10'000;

pcre2_match_context* limits() {
  static pcre2_match_context* const made = [] {
    pcre2_match_context* context = pcre2_match_context_create(nullptr);
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, kDepthLimit);
    return context;
  }();
  return made;
}

bool is_met(const policy::HeaderCondition& condition, const policy::HttpRequest& request) {
  return std::any_of(request.headers.begin(), request.headers.end(), [&](const auto& header) {
    return same_name(header.first, condition.name) && (!condition.value || header.second == *condition.value);
  });
}

// As one more step behind those that are in the list already.
void append(HeaderRules& rules, const policy::HeaderRewrite& rewrite) {
  using Action = policy::HeaderRewrite::Action;
  if (rewrite.action == Action::log) return;
  const NameValue pair{rewrite.written, rewrite.wanted.value.value_or("")};
  if (rewrite.action == Action::add) return rules.add.push_back(pair);
  const auto has_name = [&](const NameValue& other) { return same_name(other.name, pair.name); };
  std::erase_if(rules.set, has_name);
  std::erase_if(rules.add, has_name);
  if (rewrite.action == Action::replace) return rules.set.push_back(pair);
  rules.remove.push_back(pair.name);
}

}  // namespace

Pattern::Pattern(const std::string& expression) : expression_(policy::compile_regex(expression)) {
  if (expression_.refused.empty()) return;
  int error = 0;
  size_t offset = 0;
  code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                        PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_DOLLAR_ENDONLY, &error, &offset, nullptr);
}

Pattern::~Pattern() { pcre2_code_free(static_cast<pcre2_code*>(code_)); }

std::optional<bool> Pattern::matches(const std::string& text) const {
  if (expression_.refused.empty()) return expression_.matches(text);
  const auto* code = static_cast<const pcre2_code*>(code_);
  if (code == nullptr) return std::nullopt;
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, data, limits());
  pcre2_match_data_free(data);
  if (found >= 0) return true;
  return found == PCRE2_ERROR_NOMATCH ? std::optional(false) : std::nullopt;
}

std::optional<bool> RuleJudge::matches(const std::string& expression, const std::string& text) {
  if (expression.empty()) return true;
  const Pattern* pattern;
  {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<const Pattern>& known = patterns_[expression];
    if (!known) known = std::make_unique<const Pattern>(expression);
    pattern = known.get();
  }
  return pattern->matches(text);
}

std::optional<bool> RuleJudge::matches(const policy::HttpRule& rule, const policy::HttpRequest& request) {
  for (const policy::HeaderCondition& condition : rule.headers) {
    if (!is_met(condition, request)) return false;
  }
  bool unclear = false;
  const std::pair<const std::string*, const std::string*> fields[] = {
      {&rule.method, &request.method}, {&rule.host, &request.host}, {&rule.path, &request.path}};
  for (const auto& [expression, text] : fields) {
    const std::optional<bool> found = matches(*expression, *text);
    if (found && !*found) return false;
    unclear |= !found;
  }
  return unclear ? std::nullopt : std::optional(true);
}

void RuleJudge::rewrite(const policy::HttpRule& rule, const policy::HttpRequest& request, OneByOne& result) {
  for (const policy::HeaderRewrite& rewrite : rule.rewrites) {
    if (is_met(rewrite.wanted, request)) continue;
    append(result.rewrites, rewrite);
    std::vector<std::string>& names = result.mismatched;
    if (std::find(names.begin(), names.end(), rewrite.wanted.name) == names.end()) names.push_back(rewrite.wanted.name);
  }
}

OneByOne RuleJudge::judge(const policy::Entry& entry, const policy::HttpRequest& request) {
  OneByOne result;
  policy::HttpRequest joined = request;
  join_headers(joined);
  for (size_t i = 0; i < entry.origins.size(); i++) {
    const policy::HttpRule* rule = entry.origins[i].http;
    // Behind the first one only those that write headers have a say.
    if (rule == nullptr || (result.rule >= 0 && rule->rewrites.empty())) continue;
    const std::optional<bool> found = matches(*rule, joined);
    if (!found && !rule->rewrites.empty()) return {.unclear = true};
    result.unclear |= !found && result.rule < 0;
    if (!found || !*found) continue;
    if (result.rule < 0) result.rule = static_cast<int>(i);
    rewrite(*rule, joined, result);
  }
  return result;
}

void join_headers(policy::HttpRequest& request) {
  std::vector<std::pair<std::string, std::string>> joined;
  for (auto& header : request.headers) {
    const auto same = std::find_if(joined.begin(), joined.end(),
                                   [&](const auto& other) { return same_name(other.first, header.first); });
    if (same == joined.end()) {
      joined.push_back(std::move(header));
    } else {
      same->second += ", " + header.second;
    }
  }
  request.headers = std::move(joined);
}

}  // namespace shunt::proxy
