// A document of which only http rules have changed is not read anew: the rules are.
#pragma once

#include <optional>
#include <policy/documents.hpp>
#include <string>

namespace shunt::policy {

// The document of `text`, made of the one that was read of `text_before` without problems. Absent: more than some items
// of one list of http rules is different, or their lines are not simple enough to tell; then it is for a reader.
std::optional<Document> edited_document(const std::string& text_before, const Document& before,
                                        const std::string& text);

}  // namespace shunt::policy
