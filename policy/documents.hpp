// Reads documents: NetworkPolicy (networking.k8s.io/v1), CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy
// (cilium.io/v2), Namespace (v1, for its labels), Workload and Service (shunt.dev/v1), and lists of them (v1 List).
// What is not supported is a problem with its place; nothing is silently ignored.
#pragma once

#include <base/problem.hpp>
#include <base/yaml_reader.hpp>
#include <map>
#include <memory>
#include <optional>
#include <policy/model.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace shunt::policy {

inline constexpr size_t kFileBytesMax = size_t{64} << 20;
inline constexpr size_t kFilesMax = 10'000;
inline constexpr size_t kRequestRulesMax = 1'000'000;  // in all documents
inline constexpr size_t kExpressionBytesMax = 4096;
inline constexpr size_t kRedisCommandBytesMax = 64;
inline constexpr size_t kCidrsMax = 65'536;  // different networks in all documents

struct Loaded {
  Model model;  // to be used only without problems
  std::vector<Problem> problems;
  std::vector<Problem> notes;  // what is accepted and has no effect here, such as rules for UDP
  size_t documents = 0;
  std::vector<std::string> files;

  bool ok() const { return problems.empty(); }
};

struct NamespaceLabels {
  std::string name;
  Labels labels;
};

// One document, read.
struct Document {
  std::vector<std::shared_ptr<const Policy>> policies;
  std::vector<Workload> workloads;
  std::vector<Service> services;
  std::vector<NamespaceLabels> namespaces;
  std::vector<std::pair<std::string, Place>> titles;  // "Kind namespace/name", which must be unique
  std::vector<Problem> notes;                         // lines from the document's own first line
  size_t request_rules = 0;
};

// Files, and folders with *.yaml, *.yml and *.json in byte order of their names. What cannot be read is a problem.
std::vector<TextSource> read_files(const std::vector<std::string>& paths, std::vector<Problem>& problems);

// Keeps what it read: a document that did not change, or only moved, costs next to nothing the next time, and of one in
// which a few http rules changed these alone are read.
class Loader {
 public:
  // Never throws or aborts, whatever the texts are.
  Loaded load(const std::vector<TextSource>& sources);

  Loaded load_files(const std::vector<std::string>& paths);

 private:
  struct Kept {
    std::string text;
    Document document;
  };
  struct Part {
    std::shared_ptr<const Kept> kept;
    int lines_before = 0;
  };

  void load_source(const TextSource& source, std::vector<Part>* before, Loaded& loaded);
  static bool is_text_of(const std::vector<Part>& parts, const std::string& text);
  std::shared_ptr<const Kept> document(const std::string& file, std::string text, int lines_before, const Kept* before,
                                       Loaded& loaded);
  static std::optional<Document> read(const std::string& file, const std::string& text, int lines_before,
                                      Loaded& loaded);
  void add(const Document& document, const std::string& file, int lines_before, Loaded& loaded);
  void finish(Loaded& loaded);

  std::unordered_map<std::string, std::vector<Part>> files_;                 // by name, as they were read last
  std::unordered_map<std::string_view, std::shared_ptr<const Kept>> known_;  // by text
  std::map<std::string, std::string> titles_;                                // to "FILE:LINE"
  std::map<std::string, Labels> namespaces_;
  size_t request_rules_ = 0;
};

}  // namespace shunt::policy
