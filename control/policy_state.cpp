#include <algorithm>
#include <control/policy_state.hpp>
#include <filesystem>
#include <future>
#include <map>
#include <policy/rows.hpp>

namespace shunt {
namespace {

namespace fs = std::filesystem;

constexpr size_t kWorkloadsShownMax = 2000;  // a reply has at most a MiB
constexpr size_t kFilesShownMax = 1000;
constexpr size_t kRulesShownMax = 8;
constexpr size_t kHitsShownMax = 500;

bool has_documents(const std::string& directory, std::error_code& code) {
  for (fs::directory_iterator it(directory, code), end; !code && it != end; it.increment(code)) {
    const std::string extension = it->path().extension();
    if (extension == ".yaml" || extension == ".yml" || extension == ".json") return true;
  }
  return false;
}

Error problems_error(const std::vector<Problem>& problems) {
  std::string text;
  for (const Problem& problem : problems) text += (text.empty() ? "" : "\n") + problem.to_string();
  return {EINVAL, text, ""};
}

bool is_policy_event(uint32_t kind) {
  return kind == SH_EV_FORBIDDEN || kind == SH_EV_REQUEST_DENIED || kind == SH_EV_REQUEST_PUNTED ||
         kind == SH_EV_STEERED;
}

size_t missing(const PolicyReport& report) {
  return static_cast<size_t>(std::count_if(report.workloads.begin(), report.workloads.end(),
                                           [](const WorkloadPlace& place) { return !place.found(); }));
}

Json workload_document(const WorkloadPlace& place) {
  Json document{{"workload", place.title}, {"identity", place.identity}, {"found", place.found()}};
  if (place.has_cgroup) document["cgroup"] = place.path;
  if (place.has_cgroup) document["cgroup_id"] = place.cgroup;
  if (place.has_netns) document["netns"] = place.netns;
  if (place.uid) document["uid"] = *place.uid;
  if (!place.spiffe.empty()) document["spiffe"] = place.spiffe;
  if (!place.note.empty()) document["note"] = place.note;
  return document;
}

}  // namespace

Result<std::shared_ptr<const PolicyState::Prepared>> PolicyState::prepare(const PolicySettings& settings) {
  std::error_code code;
  const bool any = has_documents(settings.directory, code);
  const bool missing = code == std::errc::no_such_file_or_directory;
  if (code && (!missing || settings.directory_named))
    return unexpected(Error{EINVAL, "cannot read the folder of policies " + settings.directory + ": " + code.message(),
                            "make it, or change policy.directory"});
  if (!any) return std::make_shared<const Prepared>();
  std::vector<Problem> unreadable;
  auto sources = policy::read_files({settings.directory}, unreadable);
  if (!unreadable.empty()) return unexpected(problems_error(unreadable));
  return prepare(std::move(sources));
}

Result<std::shared_ptr<const PolicyState::Prepared>> PolicyState::prepare(std::vector<TextSource> sources) {
  auto prepared = std::make_shared<Prepared>();
  auto bundle = std::async(std::launch::async, [&sources] { return begin_bundle(sources); });
  prepared->loaded = loader_.load(sources);
  if (!prepared->loaded.ok()) return unexpected(problems_error(prepared->loaded.problems));
  if (!prepared->any()) return std::shared_ptr<const Prepared>(prepared);
  prepared->tables = compiler_.compile(prepared->loaded.model);
  prepared->rows = policy::rows_of(prepared->loaded.model, prepared->tables);
  std::vector<NamedIdentity> identities;
  for (const policy::Identity& identity : prepared->tables.identities)
    identities.push_back({identity.number, identity.title});
  auto begun = bundle.get();
  if (!begun) return unexpected(begun.error());
  auto sealed = end_bundle(std::move(*begun), identities);
  if (!sealed) return unexpected(sealed.error());
  prepared->bundle = std::move(*sealed);
  return std::shared_ptr<const Prepared>(prepared);
}

void PolicyState::put_in_force(std::shared_ptr<const Prepared> prepared, uint32_t generation) {
  prepared_ = std::move(prepared);
  generation_ = generation;
  origins_.clear();
  for (const auto& [subject, table] : prepared_->tables.subjects) {
    for (const auto& [where, entry] : table->entries) origins_[entry.entry.origin] = &entry;
  }
}

Json PolicyState::summary(const PolicyReport& report) const {
  Json document{{"generation", report.generation}};
  if (!prepared_ || report.generation == 0) return document;
  document["policies"] = prepared_->loaded.model.policies.size();
  document["workloads"] = report.workloads.size();
  document["workloads_missing"] = missing(report);
  document["sets"] = report.sets;
  return document;
}

Json PolicyState::document(const PolicyReport& report, const PolicySettings& settings) const {
  Json document = summary(report);
  document["directory"] = settings.directory;
  document["existing"] = settings.existing == SH_POLICY_EXISTING_RESET ? "reset" : "grace";
  document["known"] = prepared_ != nullptr;
  if (!prepared_) return document;
  Json files = Json::array();
  Json notes = Json::array();
  for (const std::string& file : prepared_->loaded.files) {
    if (files.size() < kFilesShownMax) files.push_back(file);
  }
  for (const Problem& note : prepared_->loaded.notes) {
    if (notes.size() < kFilesShownMax) notes.push_back(note.to_string());
  }
  document["files"] = files;
  document["notes"] = notes;
  document["subjects"] = report.subjects;
  document["entries"] = report.entries;
  document["networks"] = report.networks;
  document["blocks"] = {{"used", report.blocks}, {"room", report.blocks_max}};
  document["results"] = {{"used", report.results}, {"room", report.results_max}};
  document["identities"] = prepared_->tables.identities.size();
  Json places = Json::array();
  for (const WorkloadPlace& place : report.workloads) {
    if (places.size() == kWorkloadsShownMax) break;
    places.push_back(workload_document(place));
    const policy::Identity* identity = prepared_->tables.identity(place.identity);
    if (identity != nullptr) places.back()["identity_name"] = identity->title;
  }
  document["places"] = places;
  return document;
}

void PolicyState::add_hits(const std::vector<uint64_t>& hits, Json& document) const {
  if (!prepared_) return;
  const auto at = [&](size_t number) { return number < hits.size() ? hits[number] : uint64_t{0}; };
  struct Rule {
    uint64_t hits = 0;
    policy::RuleOrigin origin;
  };
  std::map<std::pair<const policy::Rule*, const void*>, Rule> known;  // one may be in the entries of many
  uint64_t others = 0;
  for (const auto& [number, entry] : origins_) {
    if (entry->entry.verdict != SH_POLICY_RULES) continue;
    others += at(number);
    for (size_t i = 0; i < entry->origins.size(); i++) {
      const policy::RuleOrigin& origin = entry->origins[i];
      const void* const request = origin.http != nullptr ? static_cast<const void*>(origin.http) : origin.redis;
      Rule& rule = known[{origin.rule, request}];
      rule.hits += at(number + 1 + i);
      rule.origin = origin;
    }
  }
  std::vector<Rule> rules;
  for (const auto& item : known) rules.push_back(item.second);
  std::stable_sort(rules.begin(), rules.end(), [](const Rule& a, const Rule& b) { return a.hits > b.hits; });
  document["rules_total"] = rules.size();
  document["hits_of_no_rule"] = others;
  document["rules"] = Json::array();
  for (size_t i = 0; i < std::min(rules.size(), kHitsShownMax); i++)
    document["rules"].push_back(
        {{"rule", policy::describe(prepared_->loaded.model, rules[i].origin)}, {"hits", rules[i].hits}});
}

std::string PolicyState::identity_name(uint32_t number) const {
  if (number == SH_IDENTITY_HOST) return "host";
  if (number == SH_IDENTITY_WORLD) return "world";
  const policy::Identity* identity = prepared_ ? prepared_->tables.identity(number) : nullptr;
  return identity != nullptr ? identity->title : "identity " + std::to_string(number);
}

Json PolicyState::rules_of(uint32_t origin, uint32_t rule) const {
  Json rules = Json::array();
  const auto entry = origins_.find(origin >> 1);
  if ((origin & 1) != (generation_ & 1) || entry == origins_.end()) return rules;
  for (const std::string& text : policy::rules_of(prepared_->loaded.model, *entry->second, rule)) {
    if (rules.size() < kRulesShownMax) rules.push_back(text);
  }
  return rules;
}

void PolicyState::describe(const sh_event& event, Json& document) const {
  if (!is_policy_event(event.kind)) return;
  document["client"] = identity_name(event.identity);
  document["server"] = identity_name(event.peer_identity);
  if (event.kind == SH_EV_STEERED) return;
  document["verdict"] = event.kind == SH_EV_REQUEST_PUNTED ? "punted" : "denied";
  document["policy_reason"] = policy::why_name(event.l7_reason);
  document["policy_text"] = policy::why_text(event.l7_reason);
  document["rules"] = rules_of(event.l7_origin, event.l7_rule);
}

}  // namespace shunt
