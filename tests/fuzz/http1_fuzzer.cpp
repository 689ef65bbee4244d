// Heads of HTTP/1 from any bytes: no read behind the end, the same result however the bytes arrive, and what is simple
// is read alike by another parser.
#include "http1_input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)shunt::test::http1_input(data, size);
  return 0;
}
