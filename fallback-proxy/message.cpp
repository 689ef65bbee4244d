#include <cstring>
#include <fallback-proxy/message.hpp>

namespace shunt::proxy {
namespace {

constexpr size_t kMethodBytesMax = 32;

// "HTTP/1.0" or "HTTP/1.1": the minor version; -1: another version of HTTP; -2: something else.
int read_version(std::string_view text) {
  if (text.size() != 8 || !text.starts_with("HTTP/") || !is_digit(text[5]) || text[6] != '.' || !is_digit(text[7]))
    return -2;
  if (text[5] != '1' || text[7] > '1') return -1;
  return text[7] - '0';
}

}  // namespace

HeadState HeadScan::scan(std::string_view bytes, bool newline_first) {
  if (complete_) return HeadState::complete;
  if (!started_ && newline_first && !bytes.empty() && bytes.front() == '\r') {
    if (bytes.size() < 2) return HeadState::incomplete;
    if (bytes[1] != '\n') return HeadState::refused;
    begin_ = at_ = 2;
  }
  if (bytes.size() > begin_) started_ = true;
  if (started_ && bytes.size() > begin_ && !is_token_character(bytes[begin_])) return HeadState::refused;
  while (at_ < bytes.size()) {
    const char* line = bytes.data() + at_;
    const auto* feed = static_cast<const char*>(std::memchr(line, '\n', bytes.size() - at_));
    const auto length = static_cast<size_t>((feed == nullptr ? bytes.data() + bytes.size() : feed) - line);
    const auto* carriage = static_cast<const char*>(std::memchr(line, '\r', length));
    if (carriage != nullptr && carriage + 1 != line + length) return HeadState::refused;
    if (feed == nullptr) return HeadState::incomplete;
    if (carriage == nullptr) return HeadState::refused;
    at_ += length + 1;
    complete_ = length == 1;
    if (complete_) return HeadState::complete;
  }
  return HeadState::incomplete;
}

void RequestReader::reset() {
  core_ = l7::Http1Head();
  scan_ = HeadScan();
  refusal_ = {};
  simple_ = false;
  head_bytes_ = 0;
  method_ = raw_target_ = target_ = host_ = {};
}

void RequestReader::begin_fields() {
  fields_.clear();
  has_host_ = expects_continue_ = false;
  host_ = {};
}

HeadState RequestReader::refuse(int status, const char* why) {
  refusal_ = {status, why};
  return HeadState::refused;
}

HeadState RequestReader::read(std::string_view bytes) {
  const l7_verdict verdict = core_.parse(bytes);
  if (verdict == L7_INCOMPLETE) return HeadState::incomplete;
  return verdict == L7_SIMPLE ? take_simple() : read_in_full(bytes);
}

HeadState RequestReader::read_in_full(std::string_view bytes) {
  const HeadState found = scan_.scan(bytes, true);
  if (found == HeadState::refused) return refuse(400, "the head is not made of lines that end with CR LF");
  const size_t size = found == HeadState::complete ? scan_.head_bytes() : bytes.size();
  if (size > head_bytes_max_) return refuse(431, "the head is too long");
  if (found == HeadState::incomplete) return HeadState::incomplete;
  head_bytes_ = scan_.head_bytes();
  return read_whole(bytes.substr(scan_.begin(), head_bytes_ - scan_.begin()));
}

HeadState RequestReader::take_simple() {
  begin_fields();
  head_bytes_ = core_.outcome().head_bytes;
  if (head_bytes_ > head_bytes_max_) return refuse(431, "the head is too long");
  simple_ = !core_.path_needs_normalisation();
  method_ = core_.method();
  raw_target_ = target_ = core_.target();
  minor_ = core_.raw().minor;
  for (size_t i = 0; i < core_.header_count(); i++) {
    const std::string_view name = core_.header_name(i);
    fields_.push_back({name, core_.header_value(i), known_field(name), false});
  }
  const bool good = read_host() && (simple_ || read_target()) && read_framing() && read_options();
  return good ? HeadState::complete : HeadState::refused;
}

HeadState RequestReader::read_whole(std::string_view head) {
  const size_t line_end = head.find("\r\n");
  begin_fields();
  if (!read_request_line(head.substr(0, line_end))) return HeadState::refused;
  const std::string_view lines = head.substr(line_end + 2, head.size() - line_end - 4);
  const FieldsResult fields = read_fields(lines, fields_);
  if (fields == FieldsResult::too_many) return refuse(431, "too many header fields");
  if (fields == FieldsResult::malformed) return refuse(400, "a header field is malformed");
  const bool good = read_host() && read_target() && read_framing() && read_options();
  return good ? HeadState::complete : HeadState::refused;
}

bool RequestReader::read_request_line(std::string_view line) {
  const size_t first = line.find(' ');
  const size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
  if (second == std::string_view::npos) return refuse(400, "the request line is malformed"), false;
  method_ = line.substr(0, first);
  raw_target_ = line.substr(first + 1, second - first - 1);
  const int version = read_version(line.substr(second + 1));
  if (!is_token(method_) || raw_target_.empty() || version == -2)
    return refuse(400, "the request line is malformed"), false;
  if (version == -1) return refuse(505, "HTTP/1.0 and HTTP/1.1 are spoken here; HTTP/2 is not"), false;
  minor_ = version;
  if (method_ == "CONNECT") return refuse(501, "CONNECT is not supported"), false;
  if (method_.size() > kMethodBytesMax) return refuse(501, "the method is unknown"), false;
  return true;
}

bool RequestReader::read_host() {
  for (const Field& field : fields_) {
    if (field.known != Known::host) continue;
    if (has_host_) return refuse(400, "Host is there twice"), false;
    has_host_ = true;
    host_ = field.value;
  }
  if (!has_host_ && minor_ == 1) return refuse(400, "Host is missing"), false;
  if (!host_.empty() && !is_host(host_)) return refuse(400, "Host is malformed"), false;
  return true;
}

bool RequestReader::read_target() {
  const Target split = split_target(method_, raw_target_);
  std::string_view path = split.path_and_query;
  switch (split.form) {
    case TargetForm::refused:
      return refuse(400, "the request target is malformed, or of a scheme that is not http"), false;
    case TargetForm::asterisk:
      target_ = raw_target_;
      return true;
    case TargetForm::absolute:
      if (has_host_ && !same_host(split.authority, host_))
        return refuse(400, "the request target contradicts Host"), false;
      if (!has_host_) host_ = split.authority;
      has_host_ = true;
      if (path.empty()) path = "/";
      break;
    case TargetForm::origin:
      break;
  }
  normal_.clear();
  if (!normalise_path(path, normal_)) return refuse(400, "the path is ambiguous"), false;
  target_ = normal_;
  return true;
}

bool RequestReader::read_framing() {
  const BodyLength body = read_body_length(fields_, minor_);
  if (body.malformed) return refuse(400, "the length of the body is ambiguous"), false;
  if (body.other_coding) return refuse(501, "a transfer coding other than chunked is not supported"), false;
  const bool has_body = method_ == "POST" || method_ == "PUT" || method_ == "PATCH";
  if (minor_ == 0 && has_body && !body.has_length)
    return refuse(411, "HTTP/1.0 with a body needs Content-Length"), false;
  content_length_ = body.content_length;
  has_content_length_ = body.has_length;
  framing_ = body.chunked ? Framing::chunked : body.content_length != 0 ? Framing::length : Framing::none;
  return true;
}

bool RequestReader::read_options() {
  for (const Field& field : fields_) {
    if (field.known == Known::http2_settings) return refuse(501, "the upgrade to HTTP/2 is not supported"), false;
    if (field.known == Known::upgrade) return refuse(501, "Upgrade is not supported"), false;
    if (field.known == Known::expect) {
      if (!same_name(field.value, "100-continue")) return refuse(417, "only 100-continue can be expected"), false;
      expects_continue_ = minor_ == 1 && framing_ != Framing::none;
    }
  }
  const ConnectionOptions options = drop_hop_by_hop(fields_);
  if (options.malformed) return refuse(400, "Connection is malformed"), false;
  keep_alive_ = minor_ == 1 ? !options.close : options.keep_alive && !options.close;
  return true;
}

void ResponseReader::reset(bool to_head) {
  scan_ = HeadScan();
  to_head_ = to_head;
  why_ = "";
  head_bytes_ = 0;
  fields_.clear();
}

HeadState ResponseReader::refuse(const char* why) {
  why_ = why;
  return HeadState::refused;
}

HeadState ResponseReader::read(std::string_view bytes) {
  const HeadState found = scan_.scan(bytes, false);
  if (found == HeadState::refused) return refuse("the head is not made of lines that end with CR LF");
  if ((found == HeadState::complete ? scan_.head_bytes() : bytes.size()) > head_bytes_max_)
    return refuse("the head is too long");
  if (found == HeadState::incomplete) return HeadState::incomplete;
  head_bytes_ = scan_.head_bytes();
  const std::string_view head = bytes.substr(0, head_bytes_);
  const size_t line_end = head.find("\r\n");
  fields_.clear();
  if (!read_status_line(head.substr(0, line_end))) return refuse("the status line is malformed");
  if (read_fields(head.substr(line_end + 2, head.size() - line_end - 4), fields_) != FieldsResult::ok)
    return refuse("a header field is malformed");
  return read_framing() ? HeadState::complete : HeadState::refused;
}

bool ResponseReader::read_status_line(std::string_view line) {
  if (line.size() < 12 || line[8] != ' ' || (line.size() > 12 && line[12] != ' ')) return false;
  minor_ = read_version(line.substr(0, 8));
  if (minor_ < 0 || line[9] < '1' || line[9] > '5' || !is_digit(line[10]) || !is_digit(line[11])) return false;
  status_ = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  reason_ = line.size() > 13 ? line.substr(13) : std::string_view();
  return is_field_value(reason_);
}

bool ResponseReader::read_framing() {
  const BodyLength body = read_body_length(fields_, minor_);
  const ConnectionOptions options = drop_hop_by_hop(fields_);
  if (status_ == 101) return refuse("it changes the protocol, which nobody asked for"), false;
  if (body.malformed || body.other_coding) return refuse("the length of the body is ambiguous"), false;
  if (options.malformed) return refuse("Connection is malformed"), false;
  // RFC 9112, 6.3
  const bool none = to_head_ || interim() || status_ == 204 || status_ == 304;
  content_length_ = body.content_length;
  has_content_length_ = body.has_length;
  if (none) {
    framing_ = Framing::none;
  } else if (body.chunked) {
    framing_ = Framing::chunked;
  } else if (body.has_length) {
    framing_ = body.content_length != 0 ? Framing::length : Framing::none;
  } else {
    framing_ = Framing::until_close;
  }
  keep_alive_ =
      framing_ != Framing::until_close && (minor_ == 1 ? !options.close : options.keep_alive && !options.close);
  return true;
}

}  // namespace shunt::proxy
