#include "ktls/openssl_program.hpp"

#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "support/sandbox.hpp"

namespace shunt::test {

const OpensslProgram& openssl_program() {
  static const OpensslProgram program = [] {
    const char *path = std::getenv("SHUNT_TEST_OPENSSL"), *wanted = std::getenv("SHUNT_TEST_OPENSSL_VERSION");
    OpensslProgram found{.path = path ? path : "openssl", .version = {}};
    const CommandResult said = run_command({found.path, "version"});
    unsigned major = 0, minor = 0;
    if (said.exit_code != 0 || std::sscanf(said.output.c_str(), "OpenSSL %u.%u.", &major, &minor) != 2)
      die(found.path + " does not say its version: " + said.output);
    found.version = std::to_string(major) + "." + std::to_string(minor);
    if (path && (!wanted || found.version != wanted))
      die("SHUNT_TEST_OPENSSL_VERSION is " + std::string(wanted ? wanted : "not set") + ", and " + found.path + " is " +
          said.output);
    found.has_ml_kem = major > 3 || (major == 3 && minor >= 5);
    std::printf("the peer is %s", said.output.c_str());
    return found;
  }();
  return program;
}

std::string peek_record(int fd) {
  unsigned char head[5];
  if (recv(fd, head, sizeof(head), MSG_PEEK | MSG_WAITALL) != sizeof(head)) return {};
  std::string record(sizeof(head) + (size_t{head[3]} << 8 | head[4]), '\0');
  const ssize_t got = recv(fd, record.data(), record.size(), MSG_PEEK | MSG_WAITALL);
  record.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return record;
}

bool offers_ml_kem(const std::string& hello) {
  using namespace std::string_view_literals;
  return hello.find("\x11\xec\x04\xc0"sv) != std::string::npos;  // the group, and the length of the share
}

}  // namespace shunt::test
