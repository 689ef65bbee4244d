// The policy that shuntd has put in force, for punted requests: compiled by a thread of its own, read by the workers.
#pragma once

#include <base/unique_fd.hpp>
#include <condition_variable>
#include <fallback-proxy/verdict.hpp>
#include <mutex>
#include <optional>
#include <thread>

namespace shunt::proxy {

class PolicyStore {
 public:
  struct Compiled {
    uint32_t generation = 0;                   // of the kernel side
    std::shared_ptr<const Policies> policies;  // null: there is none, or it cannot be used
    uint32_t announced = 0;                    // the kernel side's newest, which may still be compiled here
  };

  PolicyStore() = default;
  PolicyStore(const PolicyStore&) = delete;
  PolicyStore& operator=(const PolicyStore&) = delete;
  ~PolicyStore();

  // Starts to compile a bundle, instead of one that waits for it; none: nobody knows its texts, and 503 is the answer.
  void put(uint32_t generation, UniqueFd bundle);

  Compiled get() const;  // the last one that is ready

 private:
  struct Task {
    uint32_t generation = 0;
    UniqueFd bundle;
  };

  void run();
  std::shared_ptr<const Policies> compile(const Task& task);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Compiled compiled_;
  uint32_t announced_ = 0;
  std::optional<Task> next_;
  bool stop_ = false;
  std::thread thread_;  // from the first policy on
  // The thread's own: what did not change is taken over.
  policy::Loader loader_;
  policy::Compiler compiler_;
};

}  // namespace shunt::proxy
