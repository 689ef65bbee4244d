#include "probe.hpp"

#include <fcntl.h>
#include <linux/tcp.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>

#include "derive.hpp"

namespace shunt {

namespace {

using Bytes = std::basic_string<uint8_t>;

constexpr int kPatienceMs = 4000;
constexpr size_t kHeaderBytes = 5, kTagBytes = 16;
constexpr uint8_t kApplicationData = 23;

std::string failure(const char* call, int code) { return std::string(call) + ": " + std::strerror(code); }

// ---- sockets ----

struct Pair {
  UniqueFd tls;  // gets the keys
  UniqueFd raw;  // sees the wire
};

// Two ends of a loopback connection; empty on trouble, which is in `why`.
Pair connect_pair(std::string& why) {
  Pair pair;
  UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in addr{};
  addr.sin_family = AF_INET;
  addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* generic = reinterpret_cast<sockaddr*>(&addr);
  socklen_t size = sizeof(addr);
  UniqueFd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener || !client || bind(listener.get(), generic, size) != 0 || listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), generic, &size) != 0 || connect(client.get(), generic, size) != 0) {
    why = failure("a connection on 127.0.0.1", errno);
    return pair;
  }
  pair.raw.reset(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!pair.raw) {
    why = failure("accept", errno);
    return pair;
  }
  pair.tls = std::move(client);
  return pair;
}

// Exactly `size` bytes, or fewer if they do not come.
Bytes read_exactly(int fd, size_t size) {
  Bytes bytes(size, 0);
  size_t got = 0;
  while (got < size) {
    pollfd wanted{fd, POLLIN, 0};
    if (poll(&wanted, 1, kPatienceMs) <= 0) break;
    const ssize_t n = read(fd, bytes.data() + got, size - got);
    if (n <= 0) break;
    got += static_cast<size_t>(n);
  }
  bytes.resize(got);
  return bytes;
}

// ---- records in user space ----

const EVP_CIPHER* evp_cipher(const KtlsCipherShape& cipher) {
  switch (cipher.bit) {
    case kKtlsAes128Gcm:
      return EVP_aes_128_gcm();
    case kKtlsAes256Gcm:
      return EVP_aes_256_gcm();
    case kKtlsChacha20Poly1305:
      break;
  }
  return EVP_chacha20_poly1305();
}

// Encrypts or decrypts the payload of the record with sequence number 0: for that the nonce is the IV (RFC 8446
// section 5.3). `to` has room for `from`; `tag` is written or checked.
bool run_aead(const CryptoInfo& keys, bool encrypt, const uint8_t header[kHeaderBytes], const Bytes& from, Bytes& to,
              uint8_t tag[kTagBytes]) {
  uint8_t iv[kTlsIvBytes];
  keys.copy_iv(iv);
  std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> ctx(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  int n = 0;
  to.resize(from.size());
  return ctx &&
         EVP_CipherInit_ex(ctx.get(), evp_cipher(*keys.cipher()), nullptr, keys.key().data(), iv, encrypt) == 1 &&
         (encrypt || EVP_CIPHER_CTX_ctrl(ctx.get(), EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag) == 1) &&
         EVP_CipherUpdate(ctx.get(), nullptr, &n, header, kHeaderBytes) == 1 &&
         EVP_CipherUpdate(ctx.get(), to.data(), &n, from.data(), static_cast<int>(from.size())) == 1 &&
         EVP_CipherFinal_ex(ctx.get(), to.data() + n, &n) == 1 &&
         (!encrypt || EVP_CIPHER_CTX_ctrl(ctx.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag) == 1);
}

void make_header(size_t payload_bytes, uint8_t header[kHeaderBytes]) {
  const size_t length = payload_bytes + 1 + kTagBytes;
  const uint8_t bytes[] = {kApplicationData, 3, 3, static_cast<uint8_t>(length >> 8), static_cast<uint8_t>(length)};
  std::copy(std::begin(bytes), std::end(bytes), header);
}

bool seal(const CryptoInfo& keys, const Bytes& payload, Bytes& record) {
  uint8_t header[kHeaderBytes], tag[kTagBytes];
  make_header(payload.size(), header);
  Bytes sealed;
  if (!run_aead(keys, true, header, payload + kApplicationData, sealed, tag)) return false;
  record = Bytes(header, kHeaderBytes) + sealed + Bytes(tag, kTagBytes);
  return true;
}

// Is `record` what `payload` must look like on the wire?
bool opens_to(const CryptoInfo& keys, const Bytes& record, const Bytes& payload) {
  uint8_t header[kHeaderBytes], tag[kTagBytes];
  make_header(payload.size(), header);
  if (record.size() != kHeaderBytes + payload.size() + 1 + kTagBytes ||
      record.compare(0, kHeaderBytes, header, kHeaderBytes) != 0)
    return false;
  const Bytes sealed = record.substr(kHeaderBytes, payload.size() + 1);
  std::copy(record.end() - kTagBytes, record.end(), tag);
  Bytes opened;
  return run_aead(keys, false, header, sealed, opened, tag) && opened == payload + kApplicationData;
}

// ---- trials: an empty text means that it works ----

struct Trial {
  const KtlsCipherShape& cipher;
  CryptoInfo tx, rx;
  Pair pair;

  std::string begin() {
    uint8_t secret[48];
    std::string why;
    const std::span<const uint8_t> used(secret, cipher.secret_bytes);
    if (RAND_bytes(secret, sizeof(secret)) != 1 || !tx.derive(cipher, used)) why = "OpenSSL makes no keys";
    if (why.empty() && (RAND_bytes(secret, sizeof(secret)) != 1 || !rx.derive(cipher, used)))
      why = "OpenSSL makes no keys";
    OPENSSL_cleanse(secret, sizeof(secret));
    if (!why.empty()) return why;
    pair = connect_pair(why);
    if (!why.empty()) return why;
    if (setsockopt(pair.tls.get(), IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) != 0) return failure("TCP_ULP", errno);
    if (int code = tx.install(pair.tls.get(), TLS_TX)) return failure("TLS_TX", code);
    if (int code = rx.install(pair.tls.get(), TLS_RX)) return failure("TLS_RX", code);
    return {};
  }

  std::string expect_on_wire(const Bytes& payload) {
    const Bytes record = read_exactly(pair.raw.get(), kHeaderBytes + payload.size() + 1 + kTagBytes);
    return opens_to(tx, record, payload) ? "" : "what is sent is not the record that it should be";
  }

  std::string send_record(const Bytes& payload) {
    Bytes record;
    if (!seal(rx, payload, record)) return "OpenSSL does not encrypt";
    const ssize_t n = ::send(pair.raw.get(), record.data(), record.size(), MSG_NOSIGNAL);
    return n == static_cast<ssize_t>(record.size()) ? "" : failure("send", errno);
  }
};

const Bytes kPayload(reinterpret_cast<const uint8_t*>("a record of the self-test"), 25);

std::string round_trip(Trial& trial) {
  if (::send(trial.pair.tls.get(), kPayload.data(), kPayload.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(kPayload.size()))
    return failure("send", errno);
  std::string why = trial.expect_on_wire(kPayload);
  if (why.empty()) why = trial.send_record(kPayload);
  if (why.empty() && read_exactly(trial.pair.tls.get(), kPayload.size()) != kPayload)
    why = "what is received is not what was sent";
  return why;
}

std::string try_cipher(const KtlsCipherShape& cipher) {
  Trial trial{cipher, {}, {}, {}};
  std::string why = trial.begin();
  return why.empty() ? round_trip(trial) : why;
}

std::string try_rekey(const KtlsCipherShape& cipher) {
  Trial trial{cipher, {}, {}, {}};
  std::string why = trial.begin();
  if (why.empty()) why = round_trip(trial);
  uint8_t secret[48];
  if (why.empty() &&
      (RAND_bytes(secret, sizeof(secret)) != 1 || !trial.tx.derive(cipher, {secret, cipher.secret_bytes}) ||
       !trial.rx.derive(cipher, {secret, cipher.secret_bytes})))
    why = "OpenSSL makes no keys";
  OPENSSL_cleanse(secret, sizeof(secret));
  if (!why.empty()) return why;
  if (int code = trial.tx.install(trial.pair.tls.get(), TLS_TX)) return failure("TLS_TX a second time", code);
  if (int code = trial.rx.install(trial.pair.tls.get(), TLS_RX)) return failure("TLS_RX a second time", code);
  return round_trip(trial);
}

struct Pipe {
  UniqueFd reading, writing;
  bool open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    reading.reset(ends[0]);
    writing.reset(ends[1]);
    return true;
  }
};

std::string try_splice_send(const KtlsCipherShape& cipher) {
  Trial trial{cipher, {}, {}, {}};
  Pipe pipe;
  std::string why = trial.begin();
  if (!why.empty()) return why;
  if (!pipe.open() ||
      write(pipe.writing.get(), kPayload.data(), kPayload.size()) != static_cast<ssize_t>(kPayload.size()))
    return failure("pipe", errno);
  if (splice(pipe.reading.get(), nullptr, trial.pair.tls.get(), nullptr, kPayload.size(), SPLICE_F_NONBLOCK) !=
      static_cast<ssize_t>(kPayload.size()))
    return failure("splice", errno);
  return trial.expect_on_wire(kPayload);
}

std::string try_splice_receive(const KtlsCipherShape& cipher) {
  Trial trial{cipher, {}, {}, {}};
  Pipe pipe;
  std::string why = trial.begin();
  if (why.empty()) why = trial.send_record(kPayload);
  if (!why.empty()) return why;
  if (!pipe.open()) return failure("pipe", errno);
  pollfd wanted{trial.pair.tls.get(), POLLIN, 0};
  poll(&wanted, 1, kPatienceMs);
  if (splice(trial.pair.tls.get(), nullptr, pipe.writing.get(), nullptr, 4096, SPLICE_F_NONBLOCK) !=
      static_cast<ssize_t>(kPayload.size()))
    return failure("splice", errno);
  return read_exactly(pipe.reading.get(), kPayload.size()) == kPayload ? "" : "what is received is not what was sent";
}

// ---- the ULP ----

int ulp_error(std::string& why) {
  Pair pair = connect_pair(why);
  if (!why.empty()) return -1;
  return setsockopt(pair.tls.get(), IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0 ? 0 : errno;
}

// The kernel loads the module by itself for CAP_NET_ADMIN, if it can run modprobe where it looks for it.
void load_module() {
  const char* const argv[] = {"modprobe", "-q", "tls", nullptr};
  static char path[] = "PATH=/usr/sbin:/sbin:/usr/bin:/bin";
  char* const environment[] = {path, nullptr};
  posix_spawn_file_actions_t actions;
  if (posix_spawn_file_actions_init(&actions) != 0) return;
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  for (const char* program : {"/usr/sbin/modprobe", "/sbin/modprobe"}) {
    pid_t pid;
    if (posix_spawn(&pid, program, &actions, nullptr, const_cast<char**>(argv), environment) != 0) continue;
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    break;
  }
  posix_spawn_file_actions_destroy(&actions);
}

class Report {
 public:
  explicit Report(std::vector<ProbeItem>& items) : items_(items) {}

  void add(std::string name, ProbeVerdict verdict, std::string found, std::string meaning, std::string remedy = {}) {
    const auto now = std::chrono::steady_clock::now();
    items_.push_back({std::move(name), verdict, std::move(found), std::move(meaning), std::move(remedy),
                      std::chrono::duration<double>(now - start_).count()});
    start_ = now;
  }
  // A trial that may fail: what that means is `otherwise`.
  bool add_trial(const char* name, const std::string& why, const char* otherwise) {
    const bool ok = why.empty();
    add(name, ok ? ProbeVerdict::ok : ProbeVerdict::missing, ok ? "works" : why, ok ? "" : otherwise);
    return ok;
  }

 private:
  std::vector<ProbeItem>& items_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

bool probe_ulp(Report& report) {
  std::string why;
  int code = ulp_error(why);
  if (code == ENOENT) {
    load_module();
    code = ulp_error(why);
  }
  if (!why.empty()) {
    report.add("loopback", ProbeVerdict::fatal, why, "no kTLS", "bring up lo");
    return false;
  }
  report.add("loopback", ProbeVerdict::ok, "works", "");
  if (code != 0) {
    report.add("ulp", ProbeVerdict::fatal, failure("TCP_ULP \"tls\"", code), "no kTLS",
               "modprobe tls, or use a kernel with CONFIG_TLS");
    return false;
  }
  report.add("ulp", ProbeVerdict::ok, "works", "");
  return true;
}

}  // namespace

KtlsProbeReport ktls_probe() {
  KtlsProbeReport result;
  Report report(result.items);
  if (!probe_ulp(report)) return result;
  const KtlsCipherShape* working = nullptr;
  for (const KtlsCipherShape& cipher : ktls_ciphers()) {
    if (!report.add_trial(cipher.name, try_cipher(cipher), "not offered")) continue;
    result.settings.ciphers |= cipher.bit;
    if (!working) working = &cipher;
  }
  if (!working) {
    report.add("ciphers", ProbeVerdict::fatal, "none works", "no kTLS",
               "modprobe gcm, or use a kernel with CONFIG_CRYPTO_GCM");
    return result;
  }
  result.usable = true;
  result.settings.rekey = report.add_trial("rekey", try_rekey(*working), "a KeyUpdate ends the connection");
  result.splice_sends = report.add_trial("splice-send", try_splice_send(*working), "use send()");
  result.splice_receives = report.add_trial("splice-receive", try_splice_receive(*working), "use recv()");
  return result;
}

}  // namespace shunt
