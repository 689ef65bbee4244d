// Heads of requests and responses, read in full: by the core that the kernel uses where it calls them simple, and by a
// strict reader of all of RFC 9112 where it does not.
#pragma once

#include <fallback-proxy/fields.hpp>
#include <fallback-proxy/target.hpp>
#include <l7parsers/http1.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace shunt::proxy {

enum class HeadState : uint8_t { incomplete, complete, refused };

// Why a message goes no further: the status that says so, and what is wrong, for people.
struct Refusal {
  int status = 400;
  const char* why = "";
};

// Finds the empty line at the end of a head, going on where it stopped. A line feed or carriage return alone is
// refused.
class HeadScan {
 public:
  // The head is bytes.substr(begin(), head_bytes() - begin()) when complete. `newline_first`: one empty line may stand
  // before it (RFC 9112, 2.2).
  HeadState scan(std::string_view bytes, bool newline_first);
  size_t begin() const { return begin_; }
  size_t head_bytes() const { return at_; }

 private:
  size_t begin_ = 0;
  size_t at_ = 0;  // where the current line begins
  bool started_ = false;
  bool complete_ = false;
};

class RequestReader {
 public:
  explicit RequestReader(size_t head_bytes_max) : head_bytes_max_(head_bytes_max) {}

  void reset();

  // Reads the head that `bytes` begin with. While incomplete: again with the same bytes and more. All views below refer
  // to these bytes or to this reader, until the next call.
  HeadState read(std::string_view bytes);

  // Likewise, without asking the core first. Both must come to the same.
  HeadState read_in_full(std::string_view bytes);

  const Refusal& refusal() const { return refusal_; }
  // Does the core call it simple, with a path in its normal form? Then the kernel would have judged it.
  bool simple() const { return simple_; }
  l7_reason punt_reason() const { return core_.outcome().reason; }
  const l7_http1& core() const { return core_.raw(); }

  size_t head_bytes() const { return head_bytes_; }
  std::string_view method() const { return method_; }
  std::string_view raw_target() const { return raw_target_; }
  std::string_view target() const { return target_; }  // to be judged and forwarded: in its normal form
  std::string_view host() const { return host_; }      // empty: none
  bool has_host() const { return has_host_; }
  int minor() const { return minor_; }
  bool keep_alive() const { return keep_alive_; }
  bool expects_continue() const { return expects_continue_; }
  Framing framing() const { return framing_; }
  uint64_t content_length() const { return content_length_; }
  bool has_content_length() const { return has_content_length_; }
  const std::vector<Field>& fields() const { return fields_; }

 private:
  HeadState refuse(int status, const char* why);
  void begin_fields();
  HeadState take_simple();
  HeadState read_whole(std::string_view head);
  bool read_request_line(std::string_view line);
  bool read_host();
  bool read_target();
  bool read_framing();
  bool read_options();

  size_t head_bytes_max_;
  l7::Http1Head core_;
  HeadScan scan_;
  Refusal refusal_;
  bool simple_ = false;
  size_t head_bytes_ = 0;
  std::string_view method_, raw_target_, target_, host_;
  bool has_host_ = false;
  int minor_ = 1;
  bool keep_alive_ = false;
  bool expects_continue_ = false;
  bool has_content_length_ = false;
  Framing framing_ = Framing::none;
  uint64_t content_length_ = 0;
  std::vector<Field> fields_;
  std::string normal_;
};

class ResponseReader {
 public:
  explicit ResponseReader(size_t head_bytes_max) : head_bytes_max_(head_bytes_max) {}

  void reset(bool to_head);

  // As RequestReader::read().
  HeadState read(std::string_view bytes);

  const char* why() const { return why_; }  // refused
  size_t head_bytes() const { return head_bytes_; }
  int status() const { return status_; }
  std::string_view reason_phrase() const { return reason_; }
  bool interim() const { return status_ < 200; }
  bool keep_alive() const { return keep_alive_; }
  Framing framing() const { return framing_; }
  uint64_t content_length() const { return content_length_; }
  bool has_content_length() const { return has_content_length_; }
  const std::vector<Field>& fields() const { return fields_; }

 private:
  HeadState refuse(const char* why);
  bool read_status_line(std::string_view line);
  bool read_framing();

  size_t head_bytes_max_;
  HeadScan scan_;
  bool to_head_ = false;
  const char* why_ = "";
  size_t head_bytes_ = 0;
  int minor_ = 1;
  int status_ = 0;
  std::string_view reason_;
  bool keep_alive_ = false;
  bool has_content_length_ = false;
  Framing framing_ = Framing::none;
  uint64_t content_length_ = 0;
  std::vector<Field> fields_;
};

}  // namespace shunt::proxy
