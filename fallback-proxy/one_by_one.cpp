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
    const bool met = std::any_of(request.headers.begin(), request.headers.end(), [&](const auto& header) {
      return same_name(header.first, condition.name) && (!condition.value || header.second == *condition.value);
    });
    if (!met) return false;
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

OneByOne RuleJudge::judge(const policy::Entry& entry, const policy::HttpRequest& request) {
  OneByOne result;
  policy::HttpRequest joined = request;
  join_headers(joined);
  for (size_t i = 0; i < entry.origins.size(); i++) {
    if (entry.origins[i].http == nullptr) continue;
    const std::optional<bool> found = matches(*entry.origins[i].http, joined);
    result.unclear |= !found;
    if (!found || !*found) continue;
    result.rule = static_cast<int>(i);
    break;
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
