// Bodies as they stream through: taken out of one framing and put into another.
#pragma once

#include <fallback-proxy/buffer.hpp>
#include <fallback-proxy/fields.hpp>
#include <string_view>

namespace shunt::proxy {

enum class BodyState : uint8_t { more, done, malformed };

// How the body goes on. Chunks are always made anew: extensions end here, and sizes have one spelling.
enum class BodyOutput : uint8_t { raw, chunked, nowhere };

class BodyRelay {
 public:
  // `trailers`: trailer fields go on; otherwise they are read and dropped (RFC 9110, 6.5.1).
  void begin(Framing framing, uint64_t content_length, BodyOutput output, bool trailers);

  // Moves what it can from `in` to the room that `out` has. `more`: needs more input or more room. Every byte taken
  // from `in` is in `out`, unless it is framing.
  BodyState move(Buffer& in, Buffer& out);

  // The sender closed, and all it sent was moved. True: that is how this body ends; move() writes what is left to
  // write.
  bool ends_with_input();

  bool done() const { return state_ == State::done; }
  uint64_t bytes() const { return bytes_; }  // of the body itself, so far

 private:
  enum class State : uint8_t { raw, chunk_size, chunk_data, chunk_end, trailers, finish, done };

  bool step(Buffer& in, Buffer& out, BodyState& state);
  bool copy(Buffer& in, Buffer& out);
  bool read_size(Buffer& in, BodyState& state);
  bool read_trailers(Buffer& in, Buffer& out, BodyState& state);
  bool finish(Buffer& out);

  Framing framing_ = Framing::none;
  BodyOutput output_ = BodyOutput::raw;
  bool trailers_ = false;
  State state_ = State::done;
  uint64_t left_ = 0;  // of the length or of the chunk
  uint64_t bytes_ = 0;
};

}  // namespace shunt::proxy
