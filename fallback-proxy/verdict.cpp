#include <fallback-proxy/heads.hpp>
#include <fallback-proxy/verdict.hpp>

namespace shunt::proxy {
namespace {

// As the request goes on: what ends at the proxy is not judged.
policy::HttpRequest as_text(const RequestReader& request) {
  policy::HttpRequest text;
  text.method = request.method();
  text.path = request.target();
  text.host = request.host();
  for (const Field& field : request.fields()) {
    if (!field.dropped) text.headers.emplace_back(field.name, field.value);
  }
  return text;
}

void settle(const policy::Entry& entry, const sh_policy_result& result, Verdict& verdict) {
  verdict.allowed = result.verdict == SH_POLICY_ALLOW;
  verdict.reason = static_cast<sh_policy_reason>(result.name);
  verdict.rule = result.rule < entry.origins.size() ? static_cast<int>(result.rule) : -1;
}

}  // namespace

Result<std::shared_ptr<const Policies>> Policies::load(const Config& config) {
  auto made = std::make_shared<Policies>();
  policy::Compiler compiler;
  if (auto compiled = made->compile(policy::Loader().load_files(config.policies), compiler); !compiled)
    return unexpected(compiled.error());
  const auto found = made->find_ends(config);
  if (!found) return unexpected(found.error());
  return std::shared_ptr<const Policies>(std::move(made));
}

Result<std::shared_ptr<const Policies>> Policies::load(const PolicyBundle& bundle, policy::Loader& loader,
                                                       policy::Compiler& compiler) {
  auto made = std::make_shared<Policies>();
  if (auto compiled = made->compile(loader.load(bundle.sources), compiler); !compiled)
    return unexpected(compiled.error());
  for (const NamedIdentity& identity : bundle.identities) {
    const auto own = policy::find_identity(made->loaded_.model, made->tables_, identity.title);
    if (own) made->identities_[identity.number] = *own;
  }
  return std::shared_ptr<const Policies>(std::move(made));
}

Result<void> Policies::compile(policy::Loaded loaded, policy::Compiler& compiler) {
  loaded_ = std::move(loaded);
  std::string problems;
  for (const Problem& problem : loaded_.problems) problems += (problems.empty() ? "" : "\n") + problem.to_string();
  if (!problems.empty()) return unexpected(Error{EINVAL, problems, {}});
  tables_ = compiler.compile(loaded_.model);
  summary_ = policy::summary(loaded_, tables_);
  return {};
}

Result<void> Policies::find_ends(const Config& config) {
  std::string problems;
  const auto find = [&](const std::string& text, Problem place) -> uint32_t {
    const auto identity = policy::find_identity(loaded_.model, tables_, text);
    if (identity) return *identity;
    place.message = identity.error().message;
    place.remedy = identity.error().remedy;
    problems += (problems.empty() ? "" : "\n") + place.to_string();
    return 0;
  };
  for (const Listener& listener : config.listeners) {
    Ends ends;
    ends.port = listener.policy_port();
    ends.server = find(listener.destination, listener.destination_place);
    for (const SourceRule& source : listener.sources) {
      ends.sources.emplace_back(source.network, find(source.identity, source.place));
    }
    std::stable_sort(ends.sources.begin(), ends.sources.end(),
                     [](const auto& a, const auto& b) { return a.first.prefix_bits > b.first.prefix_bits; });
    ends_.push_back(std::move(ends));
  }
  if (!problems.empty()) return unexpected(Error{EINVAL, problems, {}});
  return {};
}

Relation Policies::relation(size_t listener, const Address& client) const {
  const Ends& ends = ends_[listener];
  Cidr whole;
  std::copy(client.begin(), client.end(), whole.addr);
  const auto source = std::find_if(ends.sources.begin(), ends.sources.end(),
                                   [&](const auto& item) { return policy::contains(item.first, whole); });
  Relation relation;
  relation.client = source != ends.sources.end() ? source->second : tables_.identity_of(client);
  relation.server = ends.server;
  ask(relation, ends.port);
  return relation;
}

std::optional<Relation> Policies::relation(uint32_t client, uint32_t server, uint16_t port) const {
  const auto own_client = identities_.find(client), own_server = identities_.find(server);
  if (own_client == identities_.end() || own_server == identities_.end()) return std::nullopt;
  Relation relation;
  relation.client = own_client->second;
  relation.server = own_server->second;
  ask(relation, port);
  return relation;
}

std::optional<Relation> Policies::relation_to(uint32_t server, uint16_t port, const Address& client) const {
  const auto own = identities_.find(server);
  if (own == identities_.end()) return std::nullopt;
  Relation relation;
  relation.client = tables_.identity_of(client);
  relation.server = own->second;
  ask(relation, port);
  return relation;
}

void Policies::ask(Relation& relation, uint16_t port) const {
  relation.port = port;
  const auto egress = tables_.ask(SH_POLICY_EGRESS, relation.client, relation.server, port);
  const auto ingress = tables_.ask(SH_POLICY_INGRESS, relation.server, relation.client, port);
  relation.egress = {egress.first, egress.second};
  relation.ingress = {ingress.first, ingress.second};
}

Verdict Policies::judge(const Relation& relation, const RequestReader& request, std::string_view bytes) const {
  const Verdict egress = judge_side(SH_POLICY_EGRESS, relation.egress, request, bytes);
  if (!egress.allowed) return egress;
  Verdict ingress = judge_side(SH_POLICY_INGRESS, relation.ingress, request, bytes);
  if (!egress.rewrites.empty()) ingress.rewrites = merged(egress.rewrites, ingress.rewrites);
  if (!egress.mismatched.empty())
    ingress.mismatched = egress.mismatched + (ingress.mismatched.empty() ? "" : ", ") + ingress.mismatched;
  return ingress;
}

Verdict Policies::judge_side(sh_policy_direction direction, const Relation::Side& side, const RequestReader& request,
                             std::string_view bytes) const {
  Verdict verdict;
  verdict.direction = direction;
  verdict.entry = side.rules;
  verdict.allowed = side.entry.verdict == SH_POLICY_ALLOW;
  verdict.reason = static_cast<sh_policy_reason>(side.entry.reason);
  if (side.entry.verdict != SH_POLICY_RULES || side.rules == nullptr) return verdict;
  if (side.entry.protocol == SH_L7_HTTP1) {
    judge_rules(*side.rules, request, bytes, verdict);
  } else {
    verdict.reason = SH_POLICY_R_PROTOCOLS;  // rules for something else than HTTP
  }
  return verdict;
}

void Policies::judge_rules(const policy::Entry& entry, const RequestReader& request, std::string_view bytes,
                           Verdict& verdict) const {
  if (request.simple()) {
    const sh_policy_result result = policy::match(*entry.automaton, request.core(), bytes);
    if (result.verdict != SH_POLICY_PUNT) return settle(entry, result, verdict);
  }
  policy::HttpRequest text = as_text(request);
  sh_policy_result result = policy::match_normal(*entry.automaton, text);
  if (result.verdict == SH_POLICY_PUNT && result.name == SH_POLICY_R_HEADER_TWICE) {
    join_headers(text);
    result = policy::match_normal(*entry.automaton, text);
  }
  if (result.verdict != SH_POLICY_PUNT) return settle(entry, result, verdict);
  OneByOne found = rules_->judge(entry, text);
  verdict.by_proxy = true;
  verdict.allowed = found.rule >= 0;
  verdict.rule = found.rule;
  verdict.reason = verdict.allowed ? SH_POLICY_R_RULE : found.unclear ? SH_POLICY_R_EXPRESSION : SH_POLICY_R_NO_REQUEST;
  if (!verdict.allowed) return;
  verdict.rewrites = std::move(found.rewrites);
  for (const std::string& name : found.mismatched)
    verdict.mismatched += (verdict.mismatched.empty() ? "" : ", ") + name;
}

void Policies::tell(policy::IstioMetrics& metrics, const Relation& relation, int status,
                    std::chrono::steady_clock::duration took) const {
  sh_response_key key = {};
  key.client = relation.client;
  key.server = relation.server;
  key.port = relation.port;
  key.status = static_cast<uint16_t>(status);
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
  std::call_once(told_, [&] { reporter_ = std::make_unique<policy::IstioReporter>(metrics, loaded_.model, tables_); });
  reporter_->add(key, policy::one_response(static_cast<uint64_t>(us)));
}

const std::string& Policies::title(uint32_t identity) const { return tables_.identity(identity)->title; }

std::string Policies::rule_text(const Verdict& verdict) const {
  if (verdict.entry == nullptr) return {};
  const auto& origins = verdict.entry->origins;
  if (verdict.rule >= 0) return policy::describe(loaded_.model, origins[static_cast<size_t>(verdict.rule)]);
  const bool by_connection = verdict.entry->entry.verdict != SH_POLICY_RULES;
  return by_connection && !origins.empty() ? policy::describe(loaded_.model, origins.front()) : std::string();
}

}  // namespace shunt::proxy
