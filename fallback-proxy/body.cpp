#include <charconv>
#include <fallback-proxy/body.hpp>

namespace shunt::proxy {
namespace {

constexpr size_t kSizeLineBytesMax = 1024;  // with extensions
constexpr size_t kTrailerBytesMax = 8192;
constexpr size_t kSizeDigitsMax = 15;
// "fffffffffffffff\r\n" and "\r\n"
constexpr size_t kChunkOverheadBytes = 20;
constexpr std::string_view kLastChunk = "0\r\n";

// RFC 9112, 7.1.1: chunk-size [BWS ";" ...]. What stands in the extensions is not looked at, other than for its
// characters.
bool read_chunk_size(std::string_view line, uint64_t& size) {
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), size, 16);
  const auto digits = static_cast<size_t>(end - line.data());
  if (error != std::errc() || digits > kSizeDigitsMax || line.front() == '-') return false;
  const std::string_view rest = trim(line.substr(digits));
  return (rest.empty() && digits == line.size()) || (rest.starts_with(';') && is_field_value(rest));
}

}  // namespace

void BodyRelay::begin(Framing framing, uint64_t content_length, BodyOutput output, bool trailers) {
  framing_ = framing;
  output_ = output;
  trailers_ = trailers && output == BodyOutput::chunked;
  bytes_ = 0;
  left_ = framing == Framing::length ? content_length : UINT64_MAX;
  state_ = framing == Framing::none ? State::done : framing == Framing::chunked ? State::chunk_size : State::raw;
}

BodyState BodyRelay::move(Buffer& in, Buffer& out) {
  BodyState state = BodyState::more;
  while (state == BodyState::more && state_ != State::done && step(in, out, state)) {
  }
  return state_ == State::done && state == BodyState::more ? BodyState::done : state;
}

// False: needs more input or more room.
bool BodyRelay::step(Buffer& in, Buffer& out, BodyState& state) {
  switch (state_) {
    case State::raw:
    case State::chunk_data:
      return copy(in, out);
    case State::chunk_size:
      return read_size(in, state);
    case State::chunk_end:
      if (in.size() < 2) {
        if (!in.empty() && in.bytes().front() != '\r') state = BodyState::malformed;
        return false;
      }
      if (!in.bytes().starts_with("\r\n")) state = BodyState::malformed;
      in.consume(2);
      state_ = State::chunk_size;
      return true;
    case State::trailers:
      return read_trailers(in, out, state);
    case State::finish:
      return finish(out);
    case State::done:
      return false;
  }
  return false;
}

bool BodyRelay::copy(Buffer& in, Buffer& out) {
  auto wanted = static_cast<size_t>(std::min<uint64_t>(left_, in.size()));
  if (wanted == 0) return false;
  if (output_ == BodyOutput::raw) {
    wanted = std::min(wanted, out.room());
    if (wanted == 0) return false;
    out.append(in.bytes().substr(0, wanted));
  } else if (output_ == BodyOutput::chunked) {
    if (out.room() <= kChunkOverheadBytes) return false;
    wanted = std::min(wanted, out.room() - kChunkOverheadBytes);
    char* const line = out.tail();
    const auto end = std::to_chars(line, line + kSizeDigitsMax, wanted, 16);
    out.produced(static_cast<size_t>(end.ptr - line));
    out.append("\r\n");
    out.append(in.bytes().substr(0, wanted));
    out.append("\r\n");
  }
  in.consume(wanted);
  bytes_ += wanted;
  if (framing_ != Framing::until_close) left_ -= wanted;
  if (left_ == 0) state_ = state_ == State::chunk_data ? State::chunk_end : State::finish;
  return true;
}

bool BodyRelay::read_size(Buffer& in, BodyState& state) {
  const size_t end = in.bytes().find('\n');
  if (end == std::string_view::npos || end > kSizeLineBytesMax) {
    if (in.size() > kSizeLineBytesMax) state = BodyState::malformed;
    return false;
  }
  const std::string_view line = in.bytes().substr(0, end + 1);
  uint64_t size = 0;
  if (line.size() < 3 || line[end - 1] != '\r' || !read_chunk_size(line.substr(0, end - 1), size)) {
    state = BodyState::malformed;
    return false;
  }
  in.consume(end + 1);
  left_ = size;
  state_ = size == 0 ? State::trailers : State::chunk_data;
  return true;
}

// The whole section stands in the buffer before any of it is taken.
bool BodyRelay::read_trailers(Buffer& in, Buffer& out, BodyState& state) {
  const std::string_view bytes = in.bytes();
  const size_t empty = bytes.find("\r\n\r\n");
  const bool none = bytes.starts_with("\r\n");
  if (!none && empty == std::string_view::npos) {
    const size_t feed = bytes.find('\n');
    const bool bare = feed != std::string_view::npos && (feed == 0 || bytes[feed - 1] != '\r');
    if (bare || bytes.size() > kTrailerBytesMax) state = BodyState::malformed;
    return false;
  }
  const size_t size = none ? 2 : empty + 4;
  std::vector<Field> fields;
  if (size > kTrailerBytesMax || (!none && read_fields(bytes.substr(0, empty + 2), fields) != FieldsResult::ok)) {
    state = BodyState::malformed;
    return false;
  }
  for (const Field& field : fields) {
    if (field.known != Known::other) state = BodyState::malformed;
  }
  if (state == BodyState::malformed) return false;
  if (!trailers_ || none) {
    in.consume(size);
    state_ = State::finish;
    return true;
  }
  if (out.room() < kLastChunk.size() + size) return false;
  out.append(kLastChunk);
  out.append(bytes.substr(0, size));
  in.consume(size);
  state_ = State::done;
  return true;
}

bool BodyRelay::finish(Buffer& out) {
  if (output_ == BodyOutput::chunked) {
    if (out.room() < kLastChunk.size() + 2) return false;
    out.append(kLastChunk);
    out.append("\r\n");
  }
  state_ = State::done;
  return true;
}

bool BodyRelay::ends_with_input() {
  if (framing_ == Framing::until_close && state_ == State::raw) state_ = State::finish;
  return state_ == State::finish || state_ == State::done;
}

}  // namespace shunt::proxy
