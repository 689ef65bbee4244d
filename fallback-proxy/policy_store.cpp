#include <base/log.hpp>
#include <fallback-proxy/policy_store.hpp>

namespace shunt::proxy {

PolicyStore::~PolicyStore() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void PolicyStore::put(uint32_t generation, UniqueFd bundle) {
  const std::lock_guard lock(mutex_);
  next_ = Task{generation, std::move(bundle)};
  announced_ = generation;
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_one();
}

PolicyStore::Compiled PolicyStore::get() const {
  const std::lock_guard lock(mutex_);
  Compiled now = compiled_;
  now.announced = announced_;
  return now;
}

void PolicyStore::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || next_; });
    if (stop_) return;
    const Task task = *std::exchange(next_, std::nullopt);
    lock.unlock();
    auto policies = compile(task);
    lock.lock();
    compiled_ = {task.generation, std::move(policies), 0};
  }
}

// shuntd compiled the same texts: what fails here is no fault of the operator's.
std::shared_ptr<const Policies> PolicyStore::compile(const Task& task) {
  if (!task.bundle) return nullptr;
  auto bundle = open_bundle(task.bundle.get());
  auto policies = bundle ? Policies::load(*bundle, loader_, compiler_)
                         : Result<std::shared_ptr<const Policies>>(unexpected(bundle.error()));
  if (!policies) {
    log_failure("the policy of shuntd cannot be used", policies.error(), "punted requests get 503");
    return nullptr;
  }
  log_info("policy", {{"generation", std::to_string(task.generation)}});
  return *policies;
}

}  // namespace shunt::proxy
