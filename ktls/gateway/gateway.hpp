// The gateway as a process: configuration, sockets, privileges, threads, rotation, status.
#pragma once

#include <ktls/gateway/shared.hpp>

namespace shunt::gateway {

// Until SIGTERM or SIGINT. SIGHUP: certificates and bundles are read again, and the access log is reopened.
Result<void> run_gateway(const std::string& config_file);

// Checks the configuration, and the files that it names; what it found, in one line.
Result<std::string> check_config(const std::string& config_file);

// What a running gateway says on its status socket: one JSON document.
Result<std::string> read_status(const std::string& socket);

}  // namespace shunt::gateway
