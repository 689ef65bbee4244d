// HTTP/1 heads as views of the caller's bytes.
#pragma once

#include <l7parsers/core/http1.h>

#include <l7parsers/view.hpp>

namespace shunt::l7 {

// Views refer to the bytes of the last parse(), which must live as long, and are empty where there is nothing. They are
// whole only when the verdict is L7_SIMPLE.
class Http1Head {
 public:
  explicit Http1Head(l7_http1_kind kind = L7_HTTP1_REQUEST) { l7_http1_begin(&head_, kind); }

  // Judges the head that `bytes` begin with. While INCOMPLETE: again with the same bytes and more.
  l7_verdict parse(std::string_view bytes) {
    bytes_ = bytes;
    const l7_input input = input_over(bytes);
    l7_http1_parse(&head_, &input);
    return head_.out.verdict;
  }

  const l7_outcome& outcome() const { return head_.out; }
  const l7_http1& raw() const { return head_; }

  std::string_view method() const { return target().empty() ? target() : bytes_.substr(0, head_.target.off - 1u); }
  std::string_view target() const { return slice(bytes_, head_.target); }
  std::string_view path() const { return slice(bytes_, head_.path); }
  std::string_view query() const { return slice(bytes_, head_.query); }
  bool has_query() const { return head_.query.off != 0; }
  std::string_view host() const { return slice(bytes_, head_.host); }
  std::string_view host_name() const { return slice(bytes_, head_.host_name); }
  bool keep_alive() const { return head_.flags & L7_F_KEEP_ALIVE; }
  // Servers may look up another path than path(): rules about paths cannot be decided.
  bool path_needs_normalisation() const { return head_.flags & L7_F_PATH_ANY; }

  size_t header_count() const { return head_.header_count; }
  std::string_view header_name(size_t index) const { return slice(bytes_, head_.headers[index].name); }
  std::string_view header_value(size_t index) const { return slice(bytes_, head_.headers[index].value); }

 private:
  l7_http1 head_;
  std::string_view bytes_;
};

}  // namespace shunt::l7
