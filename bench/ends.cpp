#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <bench/end_tools.hpp>
#include <bench/pattern.hpp>
#include <bench/requests.hpp>
#include <cstring>
#include <thread>

namespace shunt::bench {
namespace {

constexpr size_t kReceiveBufferBytes = 64 * 1024;
constexpr uint64_t kFullCheckEvery = 64;  // ping-pong: every so many messages are compared whole
constexpr uint32_t kSlowReadBytes = 64 * 1024;
constexpr std::chrono::microseconds kSlowReadPause{500};
constexpr uint32_t kConnectRequestBytes = 128;
constexpr uint32_t kConnectResponseBytes = 512;
constexpr char kConnectStop = 'q';  // first byte of the request that ends the server of a connect run

bool wants_no_delay(const RunSpec& spec) {
  const CellKind kind = spec.cell.kind;
  return spec.variant != Variant::unix &&
         (kind == CellKind::ping_pong || kind == CellKind::set_option || kind == CellKind::set_option_echo);
}

Result<std::unique_ptr<Channel>> accept_channel(const RunSpec& spec, const RunSignals& signals, RunMemory* memory) {
  if (spec.variant == Variant::shm) {
    return std::unique_ptr<Channel>(new ShmChannel(&memory->to_client, &memory->to_server, spec.cell.cpus > 1));
  }
  Result<UniqueFd> listener = listen_at(listening_address(spec));
  if (!listener) return unexpected(listener.error());
  if (!signal_pipe(signals.listening_write)) return unexpected(errno, "signal");
  Result<UniqueFd> fd = accept_one(listener->get());
  if (!fd) return unexpected(fd.error());
  if (wants_no_delay(spec)) {
    if (auto set = set_no_delay(fd->get()); !set) return unexpected(set.error());
  }
  auto channel = std::make_unique<SocketChannel>(std::move(*fd));
  if (spec.greets) {
    if (auto greeted = greet(channel.get()); !greeted) return unexpected(greeted.error());
  }
  return std::unique_ptr<Channel>(std::move(channel));
}

Result<std::unique_ptr<Channel>> connect_channel(const RunSpec& spec, const RunSignals& signals, RunMemory* memory) {
  if (spec.variant == Variant::shm) {
    return std::unique_ptr<Channel>(new ShmChannel(&memory->to_server, &memory->to_client, spec.cell.cpus > 1));
  }
  if (auto ready = await_pipe(signals.listening_read, "before it listened"); !ready) return unexpected(ready.error());
  Result<UniqueFd> fd = connect_to(dialled_address(spec));
  if (!fd) return unexpected(fd.error());
  if (wants_no_delay(spec)) {
    if (auto set = set_no_delay(fd->get()); !set) return unexpected(set.error());
  }
  auto channel = std::make_unique<SocketChannel>(std::move(*fd));
  if (spec.greets) {
    if (auto greeted = await_greeting(channel.get()); !greeted) return unexpected(greeted.error());
  }
  return std::unique_ptr<Channel>(std::move(channel));
}

Result<void> serve_stream(const RunSpec& spec, Channel* channel, RunMemory* memory) {
  bool slow = spec.cell.kind == CellKind::slow_reader;
  std::vector<unsigned char> buffer(slow ? kSlowReadBytes
                                         : std::max<size_t>(kReceiveBufferBytes, spec.cell.message_bytes));
  StreamHash hash;
  EndReport& report = memory->server;
  Meter meter(&report);
  for (;;) {
    Result<size_t> got = channel->receive_some(buffer.data(), buffer.size());
    if (!got) return unexpected(got.error());
    if (*got == 0) break;
    hash.add(buffer.data(), *got);
    report.bytes += *got;
    report.messages++;
    if (slow) {
      memory->bytes_read.store(report.bytes, std::memory_order_relaxed);
      std::this_thread::sleep_for(kSlowReadPause);
    }
  }
  meter.stop();
  note_cost(spec, &memory->cost_end);
  report.hash = hash.value();
  return {};
}

Result<void> drive_stream(const RunSpec& spec, const RunSignals& signals, Channel* channel, RunMemory* memory) {
  const size_t bytes = spec.cell.message_bytes;
  // The clock is read about every 64 KiB: for 64-byte messages it would otherwise be a part of what is measured.
  const uint64_t clock_every = std::max<uint64_t>(1, 64 * 1024 / bytes);
  Pattern pattern(bytes);
  EndReport& report = memory->client;
  note_cost(spec, &memory->cost_start);
  Meter meter(&report);
  const uint64_t deadline_ns = meter.deadline_ns(spec.seconds);
  for (;;) {
    if (auto sent = channel->send_all(pattern.at(report.bytes), bytes); !sent) return sent;
    report.bytes += bytes;
    report.messages++;
    if (spec.cell.kind == CellKind::slow_reader) {
      uint64_t queued = report.bytes - memory->bytes_read.load(std::memory_order_relaxed);
      memory->queued_bytes_max = std::max(memory->queued_bytes_max, queued);
    }
    if (report.messages % clock_every == 0 && now_ns() >= deadline_ns) break;
  }
  if (auto finished = channel->finish_sending(); !finished) return finished;
  meter.stop();
  // Hashing what was sent must not take the CPU from the reader, which may share it.
  if (auto waited = await_pipe(signals.finished_read, "before it had read everything"); !waited) return waited;
  report.hash = pattern_hash(pattern, report.bytes);
  return {};
}

Result<void> serve_ping_pong(const RunSpec& spec, Channel* channel, RunMemory* memory) {
  std::vector<unsigned char> message(spec.cell.message_bytes);
  EndReport& report = memory->server;
  Meter meter(&report);
  for (;;) {
    Result<size_t> got = channel->receive_some(message.data(), message.size());
    if (!got) return unexpected(got.error());
    if (*got == 0) break;
    if (auto rest = channel->receive_all(message.data() + *got, message.size() - *got); !rest) return rest;
    if (auto sent = channel->send_all(message.data(), message.size()); !sent) return sent;
    report.bytes += message.size();
    report.messages++;
  }
  meter.stop();
  return {};
}

Result<void> drive_ping_pong(const RunSpec& spec, Channel* channel, RunMemory* memory) {
  const size_t bytes = spec.cell.message_bytes;
  Pattern pattern(bytes);
  std::vector<unsigned char> message(pattern.at(0), pattern.at(0) + bytes), answer(bytes);
  EndReport& report = memory->client;
  Meter meter(&report);
  const uint64_t deadline_ns = meter.deadline_ns(spec.seconds);
  for (uint64_t sent_ns = now_ns(); sent_ns < deadline_ns;) {
    stamp(&message, report.messages);
    if (spec.cell.kind == CellKind::set_option_echo) {
      if (auto set = set_no_delay(channel->fd()); !set) return set;
    }
    if (auto sent = channel->send_all(message.data(), bytes); !sent) return sent;
    if (auto received = channel->receive_all(answer.data(), bytes); !received) return received;
    uint64_t received_ns = now_ns();
    if (auto right = check_message(answer, message, report.messages, report.messages % kFullCheckEvery == 0); !right)
      return right;
    memory->latencies.add(received_ns - sent_ns);
    report.messages++;
    report.bytes += bytes;
    sent_ns = received_ns;
  }
  meter.stop();
  return channel->finish_sending();
}

// The server closes first, as HTTP servers do: TIME_WAIT stays on its side and the client never runs out of ports.
Result<void> serve_connects(const RunSpec& spec, const RunSignals& signals, RunMemory* memory) {
  Result<UniqueFd> listener = listen_at(listening_address(spec));
  if (!listener) return unexpected(listener.error());
  if (!signal_pipe(signals.listening_write)) return unexpected(errno, "signal");
  std::vector<unsigned char> request(kConnectRequestBytes), response(kConnectResponseBytes, 'r');
  EndReport& report = memory->server;
  Meter meter(&report);
  for (;;) {
    Result<UniqueFd> fd = accept_one(listener->get());
    if (!fd) return unexpected(fd.error());
    SocketChannel channel(std::move(*fd));
    if (auto received = channel.receive_all(request.data(), request.size()); !received) return received;
    if (request[0] == kConnectStop) break;
    stamp(&response, *reinterpret_cast<uint64_t*>(request.data() + request.size() - sizeof(uint64_t)));
    if (auto sent = channel.send_all(response.data(), response.size()); !sent) return sent;
    report.messages++;
    report.bytes += request.size();
  }
  meter.stop();
  return {};
}

Result<void> one_connect(const SocketAddress& address, std::vector<unsigned char>* request, uint64_t number) {
  std::memcpy(request->data() + request->size() - sizeof(number), &number, sizeof(number));
  Result<UniqueFd> fd = connect_to(address);
  if (!fd) return unexpected(fd.error());
  SocketChannel channel(std::move(*fd));
  if (auto sent = channel.send_all(request->data(), request->size()); !sent) return sent;
  if ((*request)[0] == kConnectStop) return {};
  std::vector<unsigned char> response(kConnectResponseBytes);
  if (auto received = channel.receive_all(response.data(), response.size()); !received) return received;
  unsigned char beyond;
  Result<size_t> end = channel.receive_some(&beyond, 1);
  if (!end) return unexpected(end.error());
  if (*end != 0) return unexpected(Error{EBADMSG, "integrity: bytes behind the response", {}});
  std::vector<unsigned char> expected(kConnectResponseBytes, 'r');
  stamp(&expected, number);
  return check_message(response, expected, number, number % kFullCheckEvery == 0);
}

Result<void> drive_connects(const RunSpec& spec, const RunSignals& signals, RunMemory* memory) {
  if (auto ready = await_pipe(signals.listening_read, "before it listened"); !ready) return ready;
  std::vector<unsigned char> request(kConnectRequestBytes, 'c');
  EndReport& report = memory->client;
  Meter meter(&report);
  const uint64_t deadline_ns = meter.deadline_ns(spec.seconds);
  for (uint64_t start_ns = now_ns(); start_ns < deadline_ns;) {
    if (auto done = one_connect(dialled_address(spec), &request, report.messages); !done) return done;
    uint64_t end_ns = now_ns();
    memory->latencies.add(end_ns - start_ns);
    report.messages++;
    report.bytes += kConnectRequestBytes + kConnectResponseBytes;
    start_ns = end_ns;
  }
  meter.stop();
  request[0] = kConnectStop;
  return one_connect(dialled_address(spec), &request, 0);
}

// A connected socket whose owner does nothing but set an option: what the hook on setsockopt() costs.
Result<void> drive_set_option(const RunSpec& spec, Channel* channel, RunMemory* memory) {
  EndReport& report = memory->client;
  Meter meter(&report);
  const uint64_t deadline_ns = meter.deadline_ns(spec.seconds);
  while (now_ns() < deadline_ns) {
    for (int i = 0; i < 1000; i++) {
      if (auto set = set_no_delay(channel->fd()); !set) return set;
    }
    report.messages += 1000;
  }
  meter.stop();
  return channel->finish_sending();
}

}  // namespace

Result<void> serve(const RunSpec& spec, const RunSignals& signals, RunMemory* memory) {
  if (spec.cell.kind == CellKind::connect) return serve_connects(spec, signals, memory);
  if (spec.cell.kind == CellKind::request) return serve_requests(spec, signals, memory);
  auto channel = accept_channel(spec, signals, memory);
  if (!channel) return unexpected(channel.error());
  Result<void> served = spec.cell.kind == CellKind::one_way || spec.cell.kind == CellKind::slow_reader
                            ? serve_stream(spec, channel->get(), memory)
                            : serve_ping_pong(spec, channel->get(), memory);
  if (served && !signal_pipe(signals.finished_write)) return unexpected(errno, "signal");
  return served;
}

Result<void> drive(const RunSpec& spec, const RunSignals& signals, RunMemory* memory) {
  if (spec.cell.kind == CellKind::connect) return drive_connects(spec, signals, memory);
  if (spec.cell.kind == CellKind::request) return drive_requests(spec, signals, memory);
  auto channel = connect_channel(spec, signals, memory);
  if (!channel) return unexpected(channel.error());
  switch (spec.cell.kind) {
    case CellKind::ping_pong:
    case CellKind::set_option_echo:
      return drive_ping_pong(spec, channel->get(), memory);
    case CellKind::set_option:
      return drive_set_option(spec, channel->get(), memory);
    default:
      return drive_stream(spec, signals, channel->get(), memory);
  }
}

}  // namespace shunt::bench
