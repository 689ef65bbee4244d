// Whole requests as shunt-proxy reads them, from any bytes: the first byte says where the input is split. No read
// behind the end, the same result however the bytes arrive, the same from the core as from the full reader, and what is
// accepted is read alike by another parser.
#include <cstdio>
#include <cstdlib>

#include "support/message_judge.hpp"

namespace {

using namespace shunt;

void must(bool good, const std::string& what) {
  if (good) return;
  fprintf(stderr, "%s\n", what.c_str());
  abort();
}

// What the core calls simple, the full reader must read alike.
void compare_readers(std::string_view bytes) {
  proxy::RequestReader with_core(64 << 10);
  proxy::RequestReader in_full(64 << 10);
  with_core.reset();
  in_full.reset();
  const proxy::HeadState state = with_core.read(bytes);
  if (!with_core.simple()) return;
  must(in_full.read_in_full(bytes) == state, std::string("the full reader differs: ") + in_full.refusal().why);
  if (state != proxy::HeadState::complete) return;
  must(in_full.method() == with_core.method() && in_full.target() == with_core.target(), "another request line");
  must(in_full.host() == with_core.host() && in_full.keep_alive() == with_core.keep_alive(),
       "another host or connection");
  must(in_full.framing() == with_core.framing() && in_full.content_length() == with_core.content_length(),
       "another framing");
  must(in_full.head_bytes() == with_core.head_bytes(), "another end of the head");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  // Memory of its own, so that a read behind its end is seen.
  const std::vector<char> copy(data + 1, data + size);
  const std::string_view bytes(copy.data(), copy.size());
  compare_readers(bytes);
  const test::WholeRequest once = test::read_whole(bytes, bytes.size());
  const test::WholeRequest split = test::read_whole(bytes, data[0] * bytes.size() / 255);
  must(once.head == split.head && once.complete == split.complete, "the split changes whether it is accepted");
  if (!once.complete) return 0;
  must(once.body == split.body && once.bytes == split.bytes, "the split changes the body");
  const std::string difference = test::judge_message(once, bytes);
  must(difference.empty(), difference);
  return 0;
}
