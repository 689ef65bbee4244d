#include <algorithm>
#include <policy/compiler.hpp>
#include <set>
#include <unordered_set>

// How the matcher reaches the tables in userspace.
struct sh_policy_view {
  const shunt::policy::Tables* tables = nullptr;
  const shunt::policy::Automaton* automaton = nullptr;
  std::string_view request = {};
  mutable const shunt::policy::SubjectTable* table = nullptr;  // of the subject that was found
  mutable const shunt::policy::Entry* entry = nullptr;         // that was found
};

static const struct sh_policy_block* sh_policy_block(const struct sh_policy_view* view, sh_u32 number) {
  return number < view->automaton->blocks.size() ? &view->automaton->blocks[number] : nullptr;
}

static struct sh_policy_result sh_policy_result_at(const struct sh_policy_view* view, sh_u32 index) {
  return index < view->automaton->results.size() ? view->automaton->results[index] : sh_policy_result{};
}

static sh_u8 sh_policy_byte(const struct sh_policy_view* view, sh_u32 offset) {
  return offset < view->request.size() ? static_cast<sh_u8>(view->request[offset]) : 0;
}

static int sh_policy_find_subject(const struct sh_policy_view* view, const struct sh_policy_subject_key* key,
                                  struct sh_policy_subject* subject) {
  const auto found = view->tables->subjects.find({key->identity, key->direction});
  if (found == view->tables->subjects.end()) return 0;
  view->table = found->second.get();
  subject->table = found->second->number;
  return 1;
}

static int sh_policy_find_entry(const struct sh_policy_view* view, const struct sh_policy_key* key,
                                struct sh_policy_entry* entry) {
  const auto found = view->table->entries.find({key->peer, key->port});
  if (found == view->table->entries.end()) return 0;
  view->entry = &found->second;
  *entry = found->second.entry;
  return 1;
}

static sh_u16 sh_policy_first_port(const struct sh_policy_view* view, sh_u8, sh_u16 port) {
  return view->tables->first_port[port];
}

#include <policy/core/automaton.h>
#include <policy/core/lookup.h>
#include <policy/core/request.h>

#include <policy/text_request.hpp>

namespace shunt::policy {
namespace {

constexpr size_t kLargeSetMin = 256;  // rules; smaller ones are built anew in a few milliseconds

bool selects(const Peers& peers, const Identity& identity) {
  if (peers.any) return true;
  for (const Selector& selector : peers.selectors) {
    if (selector.matches(identity.labels)) return true;
  }
  return identity.cidr && std::any_of(peers.cidrs.begin(), peers.cidrs.end(), [&](const CidrBlock& block) {
           const auto inside = [&](const Cidr& part) { return contains(part, *identity.cidr); };
           return inside(block.cidr) && std::none_of(block.except.begin(), block.except.end(), inside);
         });
}

void mention(const std::vector<CidrBlock>& blocks, std::map<std::string, Cidr>& cidrs) {
  for (const CidrBlock& block : blocks) {
    cidrs.emplace(format_cidr(block.cidr), block.cidr);
    for (const Cidr& except : block.except) cidrs.emplace(format_cidr(except), except);
  }
}

constexpr std::string_view kEnd("\0", 1);  // of a word

// What tells rules apart, as words.
template <typename See>
void each_word(const HttpRule& rule, See see) {
  const auto see_value = [&](const std::optional<std::string>& value) {
    see(value ? "=" : "?");
    if (value) see(*value);
    see(kEnd);
  };
  for (const std::string* text : {&rule.method, &rule.path, &rule.host}) {
    see(*text);
    see(kEnd);
  }
  for (const HeaderCondition& condition : rule.headers) {
    see(condition.name);
    see_value(condition.value);
  }
  for (const HeaderRewrite& rewrite : rule.rewrites) {
    const char action = static_cast<char>('0' + static_cast<int>(rewrite.action));
    see("rewrite");
    see({&action, 1});
    see(rewrite.written);
    see_value(rewrite.wanted.value);
  }
}

template <typename See>
void each_word(const RedisRule& rule, See see) {
  see("redis");
  see(kEnd);
  see(rule.command);
  see(kEnd);
  if (rule.key) see(rule.key_is_prefix ? "*" : "=");
  if (rule.key) see(*rule.key);
}

template <typename Request>
std::string key_of(const Request& rule) {
  std::string key;
  each_word(rule, [&](std::string_view word) { key += word; });
  return key;
}

// FNV-1a: every build of every version finds again what it counted.
constexpr uint64_t kNoWords = 0xcbf29ce484222325;

uint64_t hash_words(uint64_t hash, std::string_view words) {
  for (const char c : words) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

template <typename Request>
uint64_t hash_rule(uint64_t hash, const Request& rule) {
  each_word(rule, [&](std::string_view word) { hash = hash_words(hash, word); });
  return hash;
}

uint64_t counter_key(uint64_t hash) { return hash == 0 ? 1 : hash; }  // 0 is no key

uint32_t numbers_of(const Entry& entry) { return std::max(uint32_t{1}, static_cast<uint32_t>(entry.counters.size())); }

// Who an identity is, whatever its number.
std::string words_of(const Identity* identity) {
  if (identity == nullptr) return "any";
  if (identity->cidr) return format_cidr(*identity->cidr);
  std::string words;
  for (const auto& [key, value] : identity->labels) words += key + '=' + value + ',';
  return words;
}

}  // namespace

struct Compiler::ResolvedRule {
  RuleOrigin origin;
  std::vector<bool> peers;  // by index of the identity
};

const Identity* Tables::identity(uint32_t number) const {
  const auto found =
      std::lower_bound(identities.begin(), identities.end(), number,
                       [](const Identity& identity, uint32_t wanted) { return identity.number < wanted; });
  return found == identities.end() || found->number != number ? nullptr : &*found;
}

const Identity* Tables::identity_of(const Labels& labels) const {
  const auto found = std::find_if(identities.begin(), identities.end(),
                                  [&](const Identity& identity) { return identity.labels == labels; });
  return found == identities.end() ? nullptr : &*found;
}

uint32_t Tables::identity_of(const Address& address) const {
  Cidr whole;
  std::copy(address.begin(), address.end(), whole.addr);
  uint32_t found = SH_IDENTITY_WORLD;
  int longest = -1;
  for (const auto& [cidr, number] : cidrs) {
    if (!contains(cidr, whole) || cidr.prefix_bits <= longest) continue;
    longest = cidr.prefix_bits;
    found = number;
  }
  return found;
}

std::pair<sh_policy_entry, const Entry*> Tables::ask(sh_policy_direction direction, uint32_t subject, uint32_t peer,
                                                     uint16_t port) const {
  const sh_policy_view view{this};
  const sh_policy_entry entry = sh_policy_ask(&view, 0, static_cast<sh_u8>(direction), subject, peer, port);
  return {entry, view.entry};
}

size_t Tables::entries() const {
  size_t count = 0;
  for (const auto& subject : subjects) count += subject.second->entries.size();
  return count;
}

namespace {
std::set<const Automaton*> automata(const Tables& tables) {
  std::set<const Automaton*> all;
  for (const auto& subject : tables.subjects) {
    for (const auto& entry : subject.second->entries) {
      if (entry.second.automaton) all.insert(entry.second.automaton.get());
    }
  }
  return all;
}
}  // namespace

size_t Tables::sets() const { return automata(*this).size(); }

size_t Tables::set_bytes() const {
  size_t bytes = 0;
  for (const Automaton* automaton : automata(*this)) bytes += automaton->bytes();
  return bytes;
}

sh_policy_result match(const Automaton& automaton, const HttpRequest& request) {
  return match_text({nullptr, &automaton}, automaton.set, request, false);
}

sh_policy_result match_normal(const Automaton& automaton, const HttpRequest& request) {
  return match_text({nullptr, &automaton}, automaton.set, request, true);
}

sh_policy_result match(const Automaton& automaton, const l7_http1& head, std::string_view bytes) {
  const sh_policy_view view{nullptr, &automaton, bytes};
  return sh_policy_http1(&view, &automaton.set, &head);
}

sh_policy_result match(const Automaton& automaton, const l7_resp& command, std::string_view bytes) {
  const sh_policy_view view{nullptr, &automaton, bytes};
  return sh_policy_resp(&view, &automaton.set, &command);
}

void Compiler::find_identities(const Model& model, Tables& tables) {
  std::map<std::string, Cidr> cidrs;
  for (const PlacedPolicy& placed : model.policies) {
    for (const Rule& rule : placed.policy->rules) mention(rule.peers.cidrs, cidrs);
  }
  tables.identities.push_back({SH_IDENTITY_HOST, {{"reserved:host", ""}}, std::nullopt, "host"});
  tables.identities.push_back({SH_IDENTITY_WORLD, {{"reserved:world", ""}}, std::nullopt, "world"});
  std::set<uint32_t> seen;
  for (const Workload& workload : model.workloads) {
    const auto [known, fresh] = workload_numbers_.emplace(workload.labels, next_workload_);
    if (fresh) next_workload_++;
    if (seen.insert(known->second).second) {
      tables.identities.push_back({known->second, workload.labels, std::nullopt, workload.title()});
    }
  }
  for (const auto& [title, cidr] : cidrs) {
    const auto [known, fresh] = cidr_numbers_.emplace(title, next_cidr_);
    if (fresh) next_cidr_++;
    tables.identities.push_back({known->second, {{"reserved:world", ""}}, cidr, title});
    tables.cidrs.emplace_back(cidr, known->second);
  }
  std::sort(tables.identities.begin(), tables.identities.end(),
            [](const Identity& a, const Identity& b) { return a.number < b.number; });
}

std::vector<uint16_t> Compiler::named_ports(const std::string& name, const Labels& destination) const {
  std::vector<uint16_t> ports;
  for (const Service& service : model_->services) {
    if (!service.workloads.matches(destination)) continue;
    for (const ServicePort& port : service.ports) {
      if (port.name == name) ports.push_back(port.target_port);
    }
  }
  return ports;
}

// Ports that any rule can tell from the port before them begin an interval.
void Compiler::find_ports(const Model& model, Tables& tables) const {
  std::vector<bool> begins(65'537, false);
  begins[0] = begins[1] = true;
  const auto add = [&](uint32_t first, uint32_t last) {
    begins[first] = true;
    begins[last + 1] = true;
  };
  for (const PlacedPolicy& placed : model.policies) {
    for (const Rule& rule : placed.policy->rules) {
      for (const PortSpec& port : rule.ports) {
        if (port.first != 0) add(port.first, port.last);
      }
    }
  }
  for (const Service& service : model.services) {
    for (const ServicePort& port : service.ports) add(port.target_port, port.target_port);
  }
  tables.first_port.resize(65'536);
  for (uint32_t port = 0; port < 65'536; port++) {
    tables.first_port[port] = static_cast<uint16_t>(begins[port] ? port : tables.first_port[port - 1]);
  }
}

// The ranges of a rule for one destination; absent: a destination that no service stands in front of.
std::vector<std::pair<uint16_t, uint16_t>> Compiler::ports_of(const Rule& rule, const Labels* destination) const {
  std::vector<std::pair<uint16_t, uint16_t>> ranges;
  for (const PortSpec& port : rule.ports) {
    if (port.name.empty()) {
      ranges.emplace_back(port.first, port.last);
    } else if (destination != nullptr) {
      for (const uint16_t number : named_ports(port.name, *destination)) ranges.emplace_back(number, number);
    }
  }
  return ranges;
}

std::vector<Compiler::ResolvedRule> Compiler::resolve(const Tables& tables, const SubjectTable& made,
                                                      Direction direction) const {
  std::vector<ResolvedRule> rules;
  for (const auto& policy : made.policies) {
    for (const Rule& rule : policy->rules) {
      if (rule.direction != direction) continue;
      ResolvedRule resolved{{policy.get(), &rule, nullptr, nullptr}, {}};
      for (const Identity& identity : tables.identities) resolved.peers.push_back(selects(rule.peers, identity));
      rules.push_back(std::move(resolved));
    }
  }
  return rules;
}

// Asked for once of each rule of a policy: there are many, and most of them have not changed.
template <typename Request>
const std::vector<uint32_t>& Compiler::numbers_of_rules(const RuleOrigin& origin,
                                                        const std::vector<Request>& requests) {
  std::vector<uint32_t>& numbers = policies_.at(origin.policy).numbers[origin.rule];
  if (numbers.size() == requests.size()) return numbers;
  for (const Request& request : requests) {
    const auto [known, fresh] = rule_numbers_.try_emplace(key_of(request), next_rule_);
    if (fresh) next_rule_++;
    numbers.push_back(known->second);
  }
  return numbers;
}

std::pair<std::shared_ptr<const Automaton>, uint32_t> Compiler::automaton(std::vector<uint32_t> numbers,
                                                                          const Build& build) {
  const auto set = sets_.try_emplace(std::move(numbers)).first;
  Kept& kept = set->second;
  std::shared_ptr<const Automaton> known = kept.automaton.lock();
  if (!known) {
    known = build(set->first);
    kept = {known, kept.number != 0 ? kept.number : *set_numbers_.take(1)};
  }
  return {known, kept.number};
}

// A large set is built from the one that is most like it, if there is one.
std::shared_ptr<const Automaton> Compiler::build_http(const std::vector<const HttpRule*>& rules,
                                                      const std::vector<uint32_t>& numbers) {
  if (rules.size() < kLargeSetMin) return build_automaton(rules, expressions_);
  Builder* nearest = nullptr;
  size_t most = numbers.size() / 2;  // of equal rules at its beginning and its end
  for (Builder& builder : builders_) {
    const std::vector<uint32_t>& known = builder.builder.numbers();
    const auto begin = std::mismatch(numbers.begin(), numbers.end(), known.begin(), known.end());
    const auto end = std::mismatch(numbers.rbegin(), numbers.rend(), known.rbegin(), known.rend());
    const auto equal = static_cast<size_t>((begin.first - numbers.begin()) + (end.first - numbers.rbegin()));
    if (equal > most) nearest = &builder;
    most = std::max(most, equal);
  }
  if (nearest == nullptr) nearest = &builders_.emplace_back();
  const auto built = nearest->builder.build(rules, numbers, expressions_);
  nearest->newest = built;
  return built;
}

// The different rules for requests, with their numbers; the entry gets their origins and counters.
template <typename Request>
std::vector<const Request*> Compiler::collect(const std::vector<const ResolvedRule*>& rules,
                                              const std::vector<Request> Rule::*list, const Request* RuleOrigin::*place,
                                              Entry& entry, std::vector<uint32_t>& numbers) {
  std::vector<const Request*> requests;
  std::unordered_set<uint32_t> seen;
  size_t most = 0;
  for (const ResolvedRule* rule : rules) most += (rule->origin.rule->*list).size();
  seen.reserve(most);
  for (const ResolvedRule* rule : rules) {
    const uint64_t policy = hash_words(entry.counters.front(), rule->origin.policy->title() + '\0');
    const std::vector<Request>& all = rule->origin.rule->*list;
    const std::vector<uint32_t>& their_numbers = numbers_of_rules(rule->origin, all);
    for (size_t i = 0; i < all.size(); i++) {
      const Request& request = all[i];
      const uint32_t number = their_numbers[i];
      if (!seen.insert(number).second) continue;
      requests.push_back(&request);
      numbers.push_back(number);
      RuleOrigin origin{rule->origin.policy, rule->origin.rule};
      origin.*place = &request;
      entry.origins.push_back(origin);
      entry.counters.push_back(counter_key(hash_rule(policy, request)));
    }
  }
  return requests;
}

// For rules of one protocol.
void Compiler::judge_requests(const std::vector<const ResolvedRule*>& rules, const std::string& where, Entry& entry) {
  std::vector<uint32_t> numbers;
  entry.counters.push_back(counter_key(hash_words(kNoWords, where)));
  Build build;
  if (rules.front()->origin.rule->protocol == Protocol::resp) {
    entry.entry.protocol = SH_L7_RESP;
    build = [redis = collect(rules, &Rule::redis, &RuleOrigin::redis, entry, numbers)](const auto&) {
      return build_automaton(redis);
    };
  } else {
    entry.entry.protocol = SH_L7_HTTP1;
    build = [this, http = collect(rules, &Rule::http, &RuleOrigin::http, entry, numbers)](const auto& of) {
      return build_http(http, of);
    };
  }
  const auto [known, number] = automaton(std::move(numbers), build);
  entry.automaton = known;
  entry.entry.set = number;
  entry.entry.verdict = SH_POLICY_RULES;
  entry.entry.reason = SH_POLICY_R_RULE;
}

// Denials win; then a rule that does not look at requests makes those that do void. Nobody can look at them in two
// protocols.
Entry Compiler::decide(const std::vector<const ResolvedRule*>& rules, const std::string& where) {
  Entry entry;
  entry.entry.verdict = SH_POLICY_DENY;
  entry.entry.reason = SH_POLICY_R_DEFAULT;
  const auto wanted_by = [&](auto&& wanted) {
    for (const ResolvedRule* rule : rules) {
      if (wanted(*rule->origin.rule)) entry.origins.push_back(rule->origin);
    }
    return !entry.origins.empty();
  };
  if (wanted_by([](const Rule& rule) { return rule.deny; })) {
    entry.entry.reason = SH_POLICY_R_DENY_RULE;
  } else if (wanted_by([](const Rule& rule) { return rule.protocol == Protocol::tcp; })) {
    entry.entry.verdict = SH_POLICY_ALLOW;
    entry.entry.reason = SH_POLICY_R_RULE;
  } else if (wanted_by([&](const Rule& rule) { return rule.protocol != rules.front()->origin.rule->protocol; })) {
    entry.entry.reason = SH_POLICY_R_PROTOCOLS;
  } else if (!rules.empty()) {
    judge_requests(rules, where, entry);
  }
  entry.entry.origin = *origins_.take(numbers_of(entry));
  return entry;
}

void Compiler::give_back(const SubjectTable& table) {
  table_numbers_.give_back(table.number, 1);
  for (const auto& [peer_and_port, entry] : table.entries) origins_.give_back(entry.entry.origin, numbers_of(entry));
}

// All entries of one peer; absent: of every peer that has none of its own.
void Compiler::add_peer(const Tables& tables, const std::vector<ResolvedRule>& rules, const Identity* peer,
                        const Identity& subject, Direction direction, SubjectTable& made) {
  const Labels* destination = direction == Direction::ingress ? &subject.labels
                              : peer != nullptr               ? &peer->labels
                                                              : nullptr;
  const size_t index = peer == nullptr ? 0 : static_cast<size_t>(peer - tables.identities.data());
  std::vector<const ResolvedRule*> any_port;
  std::vector<std::pair<const ResolvedRule*, std::vector<std::pair<uint16_t, uint16_t>>>> some_ports;
  std::set<uint16_t> ports;
  for (const ResolvedRule& rule : rules) {
    if (peer == nullptr ? !rule.origin.rule->peers.any : !rule.peers[index]) continue;
    auto ranges = rule.origin.rule->any_port ? std::vector<std::pair<uint16_t, uint16_t>>{{0, 0}}
                                             : ports_of(*rule.origin.rule, destination);
    const bool any = std::any_of(ranges.begin(), ranges.end(), [](const auto& range) { return range.first == 0; });
    if (any) ranges = {{0, 65'535}};
    if (any) any_port.push_back(&rule);
    for (const auto& [first, last] : ranges) {
      for (uint32_t port = first; !any && port <= last; port++) {
        if (tables.first_port[port] == port) ports.insert(static_cast<uint16_t>(port));
      }
    }
    some_ports.emplace_back(&rule, std::move(ranges));
  }
  const uint32_t number = peer == nullptr ? SH_IDENTITY_ANY : peer->number;
  const std::string where =
      words_of(&subject) + (direction == Direction::ingress ? " < " : " > ") + words_of(peer) + ' ';
  made.entries.emplace(std::pair(number, uint16_t{0}), decide(any_port, where));
  for (const uint16_t port : ports) {
    std::vector<const ResolvedRule*> covering;
    for (const auto& [rule, ranges] : some_ports) {
      const bool covers = std::any_of(ranges.begin(), ranges.end(),
                                      [&](const auto& range) { return range.first <= port && port <= range.second; });
      if (covers) covering.push_back(rule);
    }
    made.entries.emplace(std::pair(number, port), decide(covering, where + std::to_string(port) + ' '));
  }
}

std::shared_ptr<const SubjectTable> Compiler::table(const Tables& tables, const Identity& subject, Direction direction,
                                                    std::vector<std::shared_ptr<const Policy>> policies) {
  auto made = std::make_shared<SubjectTable>();
  made->number = *table_numbers_.take(1);
  made->policies = std::move(policies);
  const std::vector<ResolvedRule> rules = resolve(tables, *made, direction);
  add_peer(tables, rules, nullptr, subject, direction, *made);
  const auto names_ports = [](const ResolvedRule& rule) {
    const std::vector<PortSpec>& ports = rule.origin.rule->ports;
    return std::any_of(ports.begin(), ports.end(), [](const PortSpec& port) { return !port.name.empty(); });
  };
  for (size_t i = 0; i < tables.identities.size(); i++) {
    // Peers that no rule picks out share the entries of everybody. A named port is another one for each destination.
    const bool special = std::any_of(rules.begin(), rules.end(), [&](const ResolvedRule& rule) {
      return rule.peers[i] && (!rule.origin.rule->peers.any || (direction == Direction::egress && names_ports(rule)));
    });
    if (special) add_peer(tables, rules, &tables.identities[i], subject, direction, *made);
  }
  return made;
}

// What every table depends on: who there is, which ports can be told apart, and what named ports are.
std::string Compiler::universe_of(const Model& model, const Tables& tables) {
  std::string universe;
  for (const Identity& identity : tables.identities) universe += std::to_string(identity.number) + ",";
  universe.append(reinterpret_cast<const char*>(tables.first_port.data()), tables.first_port.size() * sizeof(uint16_t));
  for (const Service& service : model.services) {
    universe += service.title();
    for (const Requirement& requirement : service.workloads.requirements) {
      universe += requirement.key + static_cast<char>(requirement.op);
      for (const std::string& value : requirement.values) universe += value + ",";
    }
    for (const ServicePort& port : service.ports) universe += port.name + std::to_string(port.target_port) + ";";
  }
  return universe;
}

std::vector<uint32_t> Compiler::subjects_of(const Policy& policy, const Tables& tables) {
  std::vector<uint32_t> subjects;
  for (const Identity& identity : tables.identities) {
    const bool workload = identity.number >= SH_IDENTITY_WORKLOADS && !identity.cidr;
    if (workload && policy.subject.matches(identity.labels)) subjects.push_back(identity.number);
  }
  return subjects;
}

// By subject and direction, in the order of the model. Whom a policy selects is looked for once.
Compiler::Selected Compiler::select(const Model& model, const Tables& tables) {
  Selected selected;
  std::unordered_map<const Policy*, KnownPolicy> policies;
  for (const PlacedPolicy& placed : model.policies) {
    const auto known = policies_.find(placed.policy.get());
    const auto [place, fresh] = policies.try_emplace(placed.policy.get());
    KnownPolicy& policy = place->second;
    if (fresh && known != policies_.end()) policy = std::move(known->second);
    if (!policy.policy) policy = {placed.policy, subjects_of(*placed.policy, tables), {}};
    for (const uint32_t subject : policy.subjects) {
      if (placed.policy->ingress) selected[{subject, SH_POLICY_INGRESS}].push_back(placed.policy);
      if (placed.policy->egress) selected[{subject, SH_POLICY_EGRESS}].push_back(placed.policy);
    }
  }
  policies_ = std::move(policies);
  return selected;
}

Tables Compiler::compile(const Model& model) {
  Tables tables;
  tables.generation = ++generation_;
  model_ = &model;
  find_identities(model, tables);
  find_ports(model, tables);
  std::string universe = universe_of(model, tables);
  if (universe != universe_) {
    for (const auto& [key, before] : kept_) give_back(*before);
    kept_.clear();
    policies_.clear();
    universe_ = std::move(universe);
  }
  for (auto& [key, policies] : select(model, tables)) {
    const auto known = kept_.find(key);
    const bool same = known != kept_.end() && known->second->policies == policies;
    const Direction direction = key.second == SH_POLICY_INGRESS ? Direction::ingress : Direction::egress;
    tables.subjects[key] =
        same ? known->second : table(tables, *tables.identity(key.first), direction, std::move(policies));
  }
  for (const auto& [key, before] : kept_) {
    const auto now = tables.subjects.find(key);
    if (now == tables.subjects.end() || now->second != before) give_back(*before);
  }
  kept_ = tables.subjects;
  std::erase_if(sets_, [this](const auto& item) {
    if (!item.second.automaton.expired()) return false;
    set_numbers_.give_back(item.second.number, 1);
    return true;
  });
  std::erase_if(builders_, [](const Builder& builder) { return builder.newest.expired(); });
  if (remembered() > remembered_max_) forget();
  model_ = nullptr;
  return tables;
}

// Rules that no set has any more; and expressions that nobody else has, which are only quicker to have than to make, if
// most are of such rules.
void Compiler::forget() {
  std::unordered_set<uint32_t> used;
  for (const auto& [numbers, kept] : sets_) used.insert(numbers.begin(), numbers.end());
  std::erase_if(rule_numbers_, [&](const auto& item) { return !used.contains(item.second); });
  for (auto& [policy, known] : policies_) known.numbers.clear();
  if (expressions_.size() > kRememberedMin + 3 * rule_numbers_.size()) expressions_.forget_unused();
  remembered_max_ = 2 * kRememberedMin + 8 * rule_numbers_.size();
}

}  // namespace shunt::policy
