// The whole of shunt-proxy: sources, threads, signals.
#pragma once

#include <fallback-proxy/worker.hpp>
#include <string>

namespace shunt::proxy {

// The configuration with its policies; an error has one line for each problem.
Result<std::shared_ptr<const Runtime>> load_runtime(const std::string& config_file);

// Runs until SIGTERM or SIGINT. SIGHUP reloads.
Result<void> run_proxy(const std::string& config_file);

}  // namespace shunt::proxy
