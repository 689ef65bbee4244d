// The command `shunt bench tls`.
#pragma once

#include <bench/command.hpp>

namespace shunt::bench {

struct TlsOptions {
  std::vector<std::string> cells;
  std::vector<std::string> variants;
  OutputOptions output;
  int rounds = 0;
  double seconds = 0;
  int cpus = 1;
  uint64_t seed = 0;
  bool quick = false;
  bool list = false;
};

CLI::App* add_tls_command(CLI::App* app, TlsOptions* options);
int bench_tls(const TlsOptions& options);

}  // namespace shunt::bench
