#include <charconv>
#include <fallback-proxy/fields.hpp>

namespace shunt::proxy {
namespace {

constexpr size_t kLengthDigitsMax = 18;  // below 2^63

bool read_content_length(std::string_view text, uint64_t& length) {
  if (text.empty() || text.size() > kLengthDigitsMax || !std::all_of(text.begin(), text.end(), is_digit)) return false;
  std::from_chars(text.data(), text.data() + text.size(), length);
  return true;
}

// "gzip, chunked": right in itself, but not ours to undo.
bool ends_with_chunked(std::string_view list) {
  size_t chunked = 0;
  bool last = false;
  bool tokens = true;
  for_each_element(list, [&](std::string_view element) {
    last = same_name(element, "chunked");
    chunked += last;
    tokens = tokens && is_token(element);
  });
  return tokens && last && chunked == 1;
}

}  // namespace

std::string_view trim(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

bool is_framing_name(std::string_view name) {
  for (const std::string_view known : {"host", "content-length", "transfer-encoding"}) {
    const bool same =
        name.size() == known.size() && std::equal(name.begin(), name.end(), known.begin(),
                                                  [](char a, char b) { return (a == '_' ? '-' : lower(a)) == b; });
    if (same) return true;
  }
  return false;
}

FieldsResult read_fields(std::string_view lines, std::vector<Field>& fields) {
  while (!lines.empty()) {
    const size_t end = lines.find("\r\n");
    if (end == std::string_view::npos) return FieldsResult::malformed;
    const std::string_view line = lines.substr(0, end);
    lines.remove_prefix(end + 2);
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) return FieldsResult::malformed;
    const std::string_view value = trim(line.substr(colon + 1));
    if (!is_field_value(value)) return FieldsResult::malformed;
    if (fields.size() == kFieldsMax) return FieldsResult::too_many;
    const std::string_view name = line.substr(0, colon);
    const Known known = known_field(name);
    // Content_Length is not what frames the message, and yet a server behind may take it for that.
    if (known == Known::other && is_framing_name(name)) return FieldsResult::malformed;
    fields.push_back({name, value, known, false});
  }
  return FieldsResult::ok;
}

ConnectionOptions drop_hop_by_hop(std::vector<Field>& fields) {
  ConnectionOptions options;
  for (const Field& field : fields) {
    if (field.known != Known::connection) continue;
    for_each_element(field.value, [&](std::string_view name) {
      const bool close = same_name(name, "close");
      const bool keep_alive = same_name(name, "keep-alive");
      options.close |= close;
      options.keep_alive |= keep_alive;
      options.malformed |= !is_token(name) || is_framing_name(name);
      if (close || keep_alive) return;
      for (Field& named : fields) named.dropped |= same_name(named.name, name);
    });
  }
  for (Field& field : fields) {
    field.dropped |= field.known == Known::connection || field.known == Known::hop_by_hop;
  }
  return options;
}

BodyLength read_body_length(const std::vector<Field>& fields, int minor) {
  BodyLength body;
  bool has_coding = false;
  for (const Field& field : fields) {
    if (field.known == Known::content_length) {
      body.malformed |= body.has_length || !read_content_length(field.value, body.content_length);
      body.has_length = true;
    } else if (field.known == Known::transfer_encoding) {
      body.malformed |= has_coding || minor == 0;
      has_coding = true;
      body.chunked = same_name(field.value, "chunked");
      body.other_coding = !body.chunked && ends_with_chunked(field.value);
      body.malformed |= !body.chunked && !body.other_coding;
    }
  }
  body.malformed |= has_coding && body.has_length;
  return body;
}

}  // namespace shunt::proxy
