// Certificates as tests want them, good and bad.
#pragma once

#include <ktls/openssl.hpp>
#include <string>
#include <vector>

namespace shunt::test {

struct Forged {
  Certificate certificate;
  PrivateKey key;
};

// An empty text leaves the extension out.
struct ForgePlan {
  std::string name = "leaf";
  std::string alternative_names = "URI:spiffe://mesh.example/a";
  std::string basic_constraints = "critical,CA:FALSE";
  std::string key_usage = "critical,digitalSignature";
  std::string extended_key_usage;
  long starts_days = -1;  // from now
  long ends_days = 30;
};

// What makes the certificate of a CA of it.
ForgePlan ca_plan(const std::string& name);

Forged forge(const ForgePlan& plan, const Forged* issuer = nullptr);  // null: signed by itself

std::string pem_of(const Forged& forged);
std::string serial_of(const Forged& forged);  // as `openssl x509 -serial` shows it

// The list of what a CA has revoked, in PEM. Days from now.
std::string revocation_list(const Forged& ca, const std::vector<const Forged*>& revoked, long starts_days = -1,
                            long ends_days = 30);

}  // namespace shunt::test
