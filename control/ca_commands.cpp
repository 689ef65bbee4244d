// `shunt ca`: the development CA; files alone, no daemon is asked.
#include <control/cli.hpp>
#include <cstdio>

namespace shunt {

ExitCode Cli::refuse_certificate(const Error& error) const {
  return error.code == EINVAL ? fail(ExitCode::usage, error) : fail(error);
}

ExitCode Cli::show_issued(const Result<Issued>& issued) const {
  if (!issued) return refuse_certificate(issued.error());
  if (options_.json) {
    const Json document{{"spiffe_id", issued->spiffe_id},
                        {"expires", issued->expires},
                        {"certificate", issued->certificate},
                        {"key", issued->key},
                        {"bundle", issued->bundle}};
    std::printf("%s\n", dump(document, 2).c_str());
    return ExitCode::ok;
  }
  std::printf("%s, until %s\n%s\n%s\n", issued->spiffe_id.c_str(), issued->expires.c_str(), issued->certificate.c_str(),
              issued->key.c_str());
  if (issued->bundle != issued->certificate) std::printf("%s\n", issued->bundle.c_str());
  return ExitCode::ok;
}

ExitCode Cli::ca_init(const CaArguments& arguments) const {
  return show_issued(make_development_ca(arguments.folder, arguments.trust_domain, arguments.ca_days));
}

ExitCode Cli::ca_issue(const CaArguments& arguments) const {
  const auto id = parse_workload_id(arguments.spiffe_id);
  if (!id) return show_issued(unexpected(id.error()));
  return show_issued(issue_certificate(arguments.folder, *id, arguments.out, arguments.days));
}

ExitCode Cli::ca_revoke(const CaArguments& arguments) const {
  const auto revoked = revoke_certificates(arguments.folder, arguments.revoked, arguments.list_days);
  if (!revoked) return refuse_certificate(revoked.error());
  if (options_.json) {
    const Json document{
        {"list", revoked->list}, {"valid_until", revoked->valid_until}, {"certificates", revoked->certificates}};
    std::printf("%s\n", dump(document, 2).c_str());
  } else {
    std::printf("%llu certificates, until %s\n%s\n", static_cast<unsigned long long>(revoked->certificates),
                revoked->valid_until.c_str(), revoked->list.c_str());
  }
  return ExitCode::ok;
}

}  // namespace shunt
