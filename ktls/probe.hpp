// What the running kernel can do for kTLS; every behaviour is tried on loopback sockets of the process's own.
#pragma once

#include <base/probe_item.hpp>
#include <ktls/ktls.hpp>
#include <vector>

namespace shunt {

struct KtlsProbeReport {
  std::vector<ProbeItem> items;  // loopback, ulp, one for each cipher, rekey, splice-send, splice-receive
  bool usable = false;           // at least one cipher works
  bool splice_sends = false;     // KtlsSocket::send_from_pipe()
  bool splice_receives = false;  // KtlsSocket::recv_to_pipe()
  KtlsSettings settings;         // for ktls_prepare()
};

// Takes well under a second. Needs a loopback interface; root only where the module has to be loaded, which it tries by
// modprobe. Keys are random, and only the probe's own bytes are sent.
KtlsProbeReport ktls_probe();

}  // namespace shunt
