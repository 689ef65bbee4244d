// A second opinion on HTTP/1 heads: llhttp, the parser of Node.js, in its strict mode.
#pragma once

#include <l7parsers/http1.hpp>
#include <string>

namespace shunt::test {

// Where llhttp reads what `bytes` begin with in another way than `head`, which has read the same bytes as SIMPLE; empty
// if nowhere. Compared are method, target, version, status, all fields in their order, the length of head and body, how
// the body is framed, and whether the connection goes on. Bytes of a body that are not there are made up.
std::string l7_judge(const l7::Http1Head& head, std::string_view bytes);

}  // namespace shunt::test
