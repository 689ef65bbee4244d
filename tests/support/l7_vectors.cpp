#include "support/l7_vectors.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace shunt::test {
namespace {

[[noreturn]] void bad(const std::string& place, const std::string& what) {
  fprintf(stderr, "%s: %s\n", place.c_str(), what.c_str());
  exit(1);
}

std::string unescaped(const std::string& text, const std::string& place) {
  std::string bytes;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] != '\\') {
      bytes += text[i];
      continue;
    }
    const char kind = i + 1 < text.size() ? text[++i] : 0;
    if (kind == 'r') {
      bytes += '\r';
    } else if (kind == 'n') {
      bytes += '\n';
    } else if (kind == 't') {
      bytes += '\t';
    } else if (kind == '\\') {
      bytes += '\\';
    } else if (kind == 'x' && i + 2 < text.size()) {
      bytes += char(std::stoi(text.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      bad(place, "an escape that is none of \\r \\n \\t \\\\ \\xHH");
    }
  }
  return bytes;
}

// "> text", or ">*N text" for N times the text.
std::string input_line(const std::string& line, const std::string& place) {
  size_t times = 1;
  size_t space = line.find(' ');
  if (space == std::string::npos) bad(place, "no space behind >");
  if (line[1] == '*') times = std::stoul(line.substr(2, space - 2));
  const std::string once = unescaped(line.substr(space + 1), place);
  std::string all;
  for (size_t i = 0; i < times; i++) all += once;
  return all;
}

void add_line(L7Vector* vector, const std::string& line, const std::string& place) {
  if (vector->title.empty()) {
    vector->title = line;
    vector->place = place;
  } else if (line[0] == '>') {
    vector->input += input_line(line, place);
  } else {
    const size_t space = line.find(' ');
    const std::string key = line.substr(0, space);
    const std::string value = space == std::string::npos ? "" : line.substr(space + 1);
    if (key == "kind" && value != "response" && value != "response-to-head") bad(place, "no such kind");
    if (key == "kind") {
      vector->kind = value == "response" ? L7_HTTP1_RESPONSE : L7_HTTP1_RESPONSE_TO_HEAD;
    } else {
      vector->expected.emplace_back(key, value);
    }
  }
}

void read_file(const std::filesystem::path& path, bool resp, std::vector<L7Vector>* vectors) {
  std::ifstream file(path);
  L7Vector vector;
  std::string line;
  for (int number = 1; std::getline(file, line) || !vector.title.empty(); number++) {
    const std::string place = path.filename().string() + ":" + std::to_string(number);
    if (!file) line.clear();
    if (!line.empty() && line[0] == '#') continue;
    if (!line.empty()) {
      add_line(&vector, line, place);
    } else if (!vector.title.empty()) {
      if (vector.input.empty() || vector.expected.empty()) bad(place, "a vector without input or expectation");
      vector.resp = resp;
      vectors->push_back(vector);
      vector = L7Vector();
    }
    line.clear();
  }
}

const char* extent_name(const l7_outcome& out, size_t message_bytes) {
  switch (l7_extent(&out, message_bytes)) {
    case L7_WHOLE:
      return "whole";
    case L7_CONTINUES:
      return "continues";
    default:
      return "pipelined";
  }
}

std::map<std::string, std::string> outcome_fields(const l7_outcome& out, size_t message_bytes) {
  const std::string verdicts[] = {"incomplete", "simple", "punt " + std::string(l7::reason_name(out.reason))};
  return {{"verdict", verdicts[out.verdict]},
          {"head", std::to_string(out.head_bytes)},
          {"unit", out.unit_bytes == L7_BYTES_UNKNOWN ? "unknown" : std::to_string(out.unit_bytes)},
          {"extent", extent_name(out, message_bytes)}};
}

std::string path_flags(unsigned flags) {
  const std::pair<unsigned, const char*> names[] = {{L7_F_PATH_DOT, "dot"},
                                                    {L7_F_PATH_EMPTY, "empty"},
                                                    {L7_F_PATH_PERCENT, "percent"},
                                                    {L7_F_PATH_BACKSLASH, "backslash"},
                                                    {L7_F_PATH_PARAMETER, "parameter"},
                                                    {L7_F_FRAGMENT, "fragment"}};
  std::string text;
  for (const auto& [flag, name] : names) {
    if (flags & flag) text += (text.empty() ? "" : " ") + std::string(name);
  }
  return text;
}

const char* yes_or_no(bool yes) { return yes ? "yes" : "no"; }

std::map<std::string, std::string> http1_fields(const L7Vector& vector, std::string_view bytes) {
  l7::Http1Head head(vector.kind);
  head.parse(bytes);
  std::map<std::string, std::string> fields = outcome_fields(head.outcome(), bytes.size());
  if (head.outcome().verdict != L7_SIMPLE) return fields;
  const l7_http1& raw = head.raw();
  const char* framings[] = {"none", "length", "chunked", "until-close"};
  fields["method"] = head.method();
  fields["target"] = head.target();
  fields["path"] = head.path();
  fields["query"] = head.has_query() ? std::string(head.query()) : "-";
  fields["host"] = head.host();
  fields["host-name"] = head.host_name();
  fields["port"] = std::to_string(raw.host_port);
  fields["minor"] = std::to_string(raw.minor);
  fields["status"] = std::to_string(raw.status);
  fields["length"] = std::to_string(raw.content_length);
  fields["framing"] = framings[raw.framing];
  fields["keep-alive"] = yes_or_no(head.keep_alive());
  fields["interim"] = yes_or_no(raw.flags & L7_F_INTERIM);
  fields["path-flags"] = path_flags(raw.flags);
  fields["headers"] = std::to_string(raw.header_count);
  for (size_t i = 0; i < head.header_count(); i++) {
    fields["header " + std::string(head.header_name(i)) + "=" + std::string(head.header_value(i))] = "";
  }
  return fields;
}

std::map<std::string, std::string> resp_fields(std::string_view bytes) {
  l7::RespCommand command;
  command.parse(bytes);
  std::map<std::string, std::string> fields = outcome_fields(command.outcome(), bytes.size());
  if (command.outcome().verdict != L7_SIMPLE) return fields;
  std::string keys;
  std::string lengths;
  for (size_t i = 0; i < command.key_count(); i++) {
    keys += (i ? " " : "") + std::string(command.key(i));
    lengths += (i ? " " : "") + std::to_string(command.key(i).size());
  }
  fields["command"] = l7::resp_command_name(command.raw().command);
  fields["name"] = command.name();
  fields["arguments"] = std::to_string(command.raw().argument_count);
  fields["keys"] = keys;
  fields["key-lengths"] = lengths;
  return fields;
}

}  // namespace

std::vector<L7Vector> l7_vectors(const std::string& source_root) {
  std::vector<L7Vector> vectors;
  for (const char* folder : {"http1", "resp"}) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(source_root + "/tests/vectors/" + folder)) {
      paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    for (const auto& path : paths) read_file(path, folder == std::string("resp"), &vectors);
  }
  if (vectors.empty()) bad(source_root, "no vectors");
  return vectors;
}

std::map<std::string, std::string> l7_fields(const L7Vector& vector, std::string_view bytes) {
  return vector.resp ? resp_fields(bytes) : http1_fields(vector, bytes);
}

bool l7_same_result(const l7_http1& one, const l7_http1& other) {
  constexpr size_t kFields = offsetof(l7_http1, method);
  const size_t end = offsetof(l7_http1, headers) + one.header_count * sizeof(l7_http1_header);
  const char* ours = reinterpret_cast<const char*>(&one);
  const char* theirs = reinterpret_cast<const char*>(&other);
  return memcmp(&one.out, &other.out, sizeof(one.out)) == 0 && one.header_count == other.header_count &&
         memcmp(ours + kFields, theirs + kFields, end - kFields) == 0;
}

bool l7_same_result(const l7_resp& one, const l7_resp& other) { return memcmp(&one, &other, sizeof(one)) == 0; }

unsigned L7Mutator::below(unsigned bound) {
  state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
  return unsigned(state_ >> 33) % bound;
}

std::string L7Mutator::mutate(const std::string& input) {
  static const char* const kPieces[] = {
      "\r\n", "\n", "\r",    " ",      ":",      "Content-Length: 5\r\n",          "Host: x\r\n",
      "/../", "%",  "\r\n ", "$1\r\n", "*2\r\n", "Transfer-Encoding: chunked\r\n", "HTTP/1.1",
      "\t",   "?"};
  std::string bytes = input;
  for (unsigned changes = 1 + below(3); changes; changes--) {
    const size_t at = below(unsigned(bytes.size()) + 1);
    switch (below(6)) {
      case 0:
        if (at < bytes.size()) bytes[at] = char(below(256));
        break;
      case 1:
        if (at < bytes.size()) bytes[at] = char(bytes[at] ^ (1 << below(8)));
        break;
      case 2:
        bytes.erase(at, 1 + below(4));
        break;
      case 3:
        bytes.insert(at, kPieces[below(std::size(kPieces))]);
        break;
      case 4:
        bytes.insert(at, bytes.substr(at, below(40)));
        break;
      default: {
        const std::string& other = vectors_[below(unsigned(vectors_.size()))].input;
        const size_t from = below(unsigned(other.size()) + 1);
        bytes.insert(at, other.substr(from, below(60)));
      }
    }
  }
  return bytes;
}

}  // namespace shunt::test
