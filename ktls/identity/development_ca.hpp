// A CA for development and tests: two hosts trust each other within a minute. Its key lies in a file; for production,
// let SPIRE or a PKI issue the certificates.
#pragma once

#include <base/spiffe_id.hpp>
#include <string>
#include <vector>

namespace shunt {

inline constexpr const char* kDefaultCaFolder = "/etc/shunt/ca";
inline constexpr unsigned kCaDaysDefault = 3650;
inline constexpr unsigned kCertificateDaysDefault = 30;
inline constexpr unsigned kListDaysDefault = 30;
inline constexpr unsigned kCaDaysMax = 36500;

struct Issued {
  std::string spiffe_id;
  std::string expires;      // "2025-01-02T03:04:05Z"
  std::string certificate;  // files
  std::string key;
  std::string bundle;  // the CA's certificate, for those who are to trust it
};

struct Revoked {
  std::string list;         // a file
  std::string valid_until;  // "2025-01-02T03:04:05Z": from then on nobody who asks it lets certificates of this CA in
  uint64_t certificates = 0;
};

// Files are made anew or not at all: none is ever written over, but for the list of revoked certificates. Keys can be
// read by their owner alone.

// FOLDER/ca.pem and FOLDER/ca.key, with a P-256 key. The folder is made, for its owner alone, if it is not there.
Result<Issued> make_development_ca(const std::string& folder, const std::string& trust_domain, unsigned days);

// OUT/certificate.pem, OUT/key.pem and OUT/bundle.pem. The certificate ends with the CA at the latest.
Result<Issued> issue_certificate(const std::string& ca_folder, const SpiffeId& id, const std::string& out_folder,
                                 unsigned days);

// FOLDER/ca.crl: the certificates in these files, the first of each, and those that were on the list before. Without
// files the list is made anew with another date. EINVAL: not a certificate of this CA.
Result<Revoked> revoke_certificates(const std::string& ca_folder, const std::vector<std::string>& certificate_files,
                                    unsigned days);

}  // namespace shunt
