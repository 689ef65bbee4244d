// The program openssl as the peer of a test.
#pragma once

#include <string>

namespace shunt::test {

struct OpensslProgram {
  std::string path;  // or a name
  std::string version;
  bool has_ml_kem = false;  // from 3.5 on, which offer it unasked
};

// The machine's; or that of SHUNT_TEST_OPENSSL, which must be of SHUNT_TEST_OPENSSL_VERSION ("3.5"), or the test
// program ends.
const OpensslProgram& openssl_program();

// The first record of a connection, left in its socket.
std::string peek_record(int fd);

// Whether a ClientHello brings a key share of X25519MLKEM768.
bool offers_ml_kem(const std::string& hello);

}  // namespace shunt::test
