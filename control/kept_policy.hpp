// The documents that were put in force last, kept for the next boot: those in the folder may have been spoilt since.
#pragma once

#include <base/proxy_link.hpp>
#include <base/result.hpp>
#include <string>
#include <vector>

namespace shunt {

// `bundle`: of seal_bundle(). The file is replaced whole. Where its folder is missing nothing is kept.
Result<void> keep_policy(const std::string& file, int bundle);
Result<void> forget_policy(const std::string& file);
// ENOENT: there is none.
Result<std::vector<TextSource>> kept_policy(const std::string& file);

}  // namespace shunt
