// Puts documents into the folder of policies, all at once, so that it can be taken back.
#pragma once

#include <base/result.hpp>
#include <base/yaml_reader.hpp>
#include <policy/documents.hpp>
#include <string>
#include <vector>

namespace shunt {

// The folder as it is to be: made beside it, exchanged with it, and removed with its owner.
class StagedPolicies {
 public:
  // `documents` by their base names, in place of those of the same name; `replace`: of all.
  static Result<StagedPolicies> make(const std::string& directory, const std::vector<TextSource>& documents,
                                     bool replace);
  StagedPolicies(StagedPolicies&& other) noexcept;
  StagedPolicies& operator=(StagedPolicies&&) = delete;
  ~StagedPolicies();

  // What the folder will say, with the names that it will have; those that are new are named as they were given.
  policy::Loaded check() const;

  Result<void> exchange();   // the folder's content is the new one, at once
  Result<void> take_back();  // after exchange(): the old one again

  const std::vector<std::string>& removed() const { return removed_; }  // names of documents that are no more there

 private:
  StagedPolicies() = default;
  Result<void> keep(const std::string& name);
  Result<void> add(const std::string& name, const std::string& text) const;

  std::string directory_;
  std::string beside_;  // its neighbour that is exchanged with it; empty: moved from
  bool was_there_ = false;
  std::vector<TextSource> documents_;
  std::vector<std::string> kept_;  // paths of documents that stay
  std::vector<std::string> removed_;
};

}  // namespace shunt
