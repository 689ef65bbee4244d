// SPIFFE IDs, the rules of X.509-SVIDs, and which refusal each breach gets; on real handshakes too.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <base/values.hpp>
#include <filesystem>
#include <ktls/identity/credentials.hpp>
#include <ktls/identity/development_ca.hpp>
#include <ktls/identity/peer.hpp>

#include "ktls/forge.hpp"
#include "support/sandbox.hpp"

namespace shunt::test {

namespace {

using PeerRole = TrustBundles::PeerRole;

std::string path_of_bytes(size_t bytes) { return "/" + std::string(bytes - 1, 'x'); }

TEST(SpiffeId, TakesWhatTheSpecificationAllows) {
  for (const std::string& text :
       {std::string("spiffe://mesh.example/host/a"), std::string("spiffe://1_2-3.x/A.b_C-d/.../..x"),
        "spiffe://" + std::string(255, 'd') + path_of_bytes(2048 - 9 - 255)}) {
    const auto id = SpiffeId::parse(text);
    ASSERT_TRUE(id) << id.error().to_string();
    EXPECT_EQ(id->text(), text);
    EXPECT_EQ("spiffe://" + std::string(id->trust_domain()) + std::string(id->path()), text);
    EXPECT_TRUE(parse_workload_id(text));
  }
  const auto domain = SpiffeId::parse("spiffe://mesh.example");
  ASSERT_TRUE(domain);
  EXPECT_EQ(domain->trust_domain(), "mesh.example");
  EXPECT_EQ(domain->path(), "");
  EXPECT_FALSE(parse_workload_id("spiffe://mesh.example"));
}

TEST(SpiffeId, RefusesTheRest) {
  const std::string cases[] = {"",
                               "spiffe:",
                               "spiffe:/mesh/a",
                               "spiffe://",
                               "spiffe:///a",
                               "Spiffe://mesh/a",
                               "https://mesh/a",
                               "spiffe://Mesh/a",
                               "spiffe://user@mesh/a",
                               "spiffe://mesh:443/a",
                               "spiffe://[::1]/a",
                               "spiffe://m\xc3\xa9sh/a",
                               "spiffe://mesh%2e/a",
                               "spiffe://mesh?a",
                               "spiffe://mesh#a",
                               "spiffe://mesh/",
                               "spiffe://mesh/a/",
                               "spiffe://mesh//a",
                               "spiffe://mesh/./a",
                               "spiffe://mesh/a/..",
                               "spiffe://mesh/a b",
                               "spiffe://mesh/a%20b",
                               "spiffe://mesh/a?b",
                               "spiffe://mesh/a#b",
                               "spiffe://mesh/a:b",
                               " spiffe://mesh/a",
                               "spiffe://mesh/a\n",
                               std::string("spiffe://mesh/a\0b", 17),
                               "spiffe://" + std::string(256, 'd') + "/a",
                               "spiffe://d" + path_of_bytes(2048 - 9)};
  for (const std::string& text : cases) {
    const auto id = SpiffeId::parse(text);
    EXPECT_FALSE(id) << text;
    EXPECT_TRUE(id || !id.error().remedy.empty()) << text;
  }
}

Certificates chain_of(const Forged& forged) {
  Certificates chain(sk_X509_new_null());
  X509_up_ref(forged.certificate.get());
  sk_X509_push(chain.get(), forged.certificate.get());
  return chain;
}

// What a bundle with one CA says of a certificate of it.
class Peers : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(trust_->add("mesh.example", pem_of(ca_), "ca.pem")); }

  std::string verdict(const Forged& leaf, PeerRole role = PeerRole::client,
                      TrustBundles::Moment moment = TrustBundles::Moment::handshake,
                      STACK_OF(X509) * chain = nullptr) const {
    const auto id = trust_->verify(leaf.certificate.get(), chain, role, moment);
    return id ? id->text() : id.error().name();
  }
  std::string live(const Forged& leaf) const {
    return verdict(leaf, PeerRole::client, TrustBundles::Moment::connection);
  }
  std::string verdict_of(const ForgePlan& plan, PeerRole role = PeerRole::client) const {
    return verdict(forge(plan, &ca_), role);
  }

  Forged ca_ = forge(ca_plan("CA"));
  std::shared_ptr<TrustBundles> trust_ = std::make_shared<TrustBundles>();
};

TEST_F(Peers, AreWhomTheirCaVouchesFor) {
  EXPECT_EQ(verdict_of({}), "spiffe://mesh.example/a");
  EXPECT_EQ(verdict_of({}, PeerRole::server), "spiffe://mesh.example/a");
  EXPECT_EQ(verdict_of({.extended_key_usage = "serverAuth,clientAuth"}), "spiffe://mesh.example/a");
  EXPECT_EQ(verdict_of({.alternative_names = "DNS:a.example,URI:spiffe://mesh.example/b,IP:127.0.0.1"}),
            "spiffe://mesh.example/b");
}

TEST_F(Peers, EachBreachHasItsReason) {
  const std::pair<ForgePlan, const char*> cases[] = {
      {{.alternative_names = ""}, "no-identity"},
      {{.alternative_names = "DNS:a.example"}, "no-identity"},
      {{.alternative_names = "URI:spiffe://mesh.example/a,URI:spiffe://mesh.example/a"}, "several-identities"},
      {{.alternative_names = "URI:spiffe://mesh.example/a,URI:https://mesh.example/a"}, "several-identities"},
      {{.alternative_names = "URI:https://mesh.example/a"}, "malformed-identity"},
      {{.alternative_names = "URI:spiffe://mesh.example"}, "malformed-identity"},
      {{.alternative_names = "URI:spiffe://mesh.example/a/../b"}, "malformed-identity"},
      {{.alternative_names = "URI:spiffe://other.example/a"}, "unknown-trust-domain"},
      {{.basic_constraints = "critical,CA:TRUE"}, "not-a-leaf"},
      {{.key_usage = ""}, "wrong-key-usage"},
      {{.key_usage = "critical,keyEncipherment"}, "wrong-key-usage"},
      {{.key_usage = "critical,digitalSignature,keyCertSign"}, "wrong-key-usage"},
      {{.key_usage = "critical,digitalSignature,cRLSign"}, "wrong-key-usage"},
      {{.extended_key_usage = "serverAuth"}, "wrong-key-usage"},
      {{.extended_key_usage = "codeSigning"}, "wrong-key-usage"},
      {{.starts_days = -2, .ends_days = -1}, "expired"},
      {{.starts_days = 1, .ends_days = 2}, "not-yet-valid"},
  };
  for (const auto& [plan, reason] : cases)
    EXPECT_EQ(verdict_of(plan), reason) << plan.alternative_names << plan.key_usage << plan.extended_key_usage;
}

TEST_F(Peers, OfAnotherCaAreRefusedHoweverItIsNamed) {
  EXPECT_EQ(verdict(forge({})), "wrong-ca");
  const Forged other = forge(ca_plan("another CA")), impostor = forge(ca_plan("CA"));
  EXPECT_EQ(verdict(forge({}, &other)), "wrong-ca");
  EXPECT_EQ(verdict(forge({}, &impostor)), "wrong-ca");
  // A leaf signs nothing.
  const Forged leaf = forge({}, &ca_), below = forge({.name = "below"}, &leaf);
  const Certificates chain = chain_of(leaf);
  EXPECT_FALSE(trust_->verify(below.certificate.get(), chain.get(), PeerRole::client));
}

TEST_F(Peers, ACaVouchesForItsOwnTrustDomainAlone) {
  const Forged other = forge(ca_plan("CA of another domain"));
  ASSERT_TRUE(trust_->add("other.example", pem_of(other), "other.pem"));
  EXPECT_EQ(verdict(forge({}, &other)), "wrong-ca");
  EXPECT_EQ(verdict(forge({.alternative_names = "URI:spiffe://other.example/a"}, &other)), "spiffe://other.example/a");
}

TEST_F(Peers, MayPresentIntermediateCertificates) {
  const Forged middle = forge(ca_plan("middle"), &ca_), leaf = forge({}, &middle);
  EXPECT_EQ(verdict(leaf), "wrong-ca");
  const Certificates chain = chain_of(middle);
  EXPECT_TRUE(trust_->verify(leaf.certificate.get(), chain.get(), PeerRole::client));
}

TEST_F(Peers, TimeAloneEndsNoConnection) {
  const Forged old = forge({.starts_days = -5, .ends_days = -1}, &ca_);
  EXPECT_EQ(verdict(old), "expired");
  EXPECT_EQ(live(old), "spiffe://mesh.example/a");
  EXPECT_EQ(live(forge({})), "wrong-ca");
}

TEST_F(Peers, AreRevokedByTheirCa) {
  const Forged good = forge({}, &ca_), bad = forge({}, &ca_);
  ASSERT_TRUE(trust_->add_revocations("mesh.example", revocation_list(ca_, {&bad}), "crl.pem"));
  EXPECT_EQ(verdict(good), "spiffe://mesh.example/a");
  EXPECT_EQ(verdict(bad), "certificate-revoked");
  EXPECT_EQ(live(bad), "certificate-revoked");
  EXPECT_EQ(live(good), "spiffe://mesh.example/a");
}

TEST_F(Peers, AreNotTakenWithoutACurrentListOfTheirCa) {
  const Forged leaf = forge({}, &ca_), other = forge(ca_plan("another CA"));
  ASSERT_TRUE(trust_->add("mesh.example", pem_of(other), "ca.pem"));
  ASSERT_TRUE(trust_->add_revocations("mesh.example", revocation_list(other, {}), "crl.pem"));
  EXPECT_EQ(verdict(leaf), "no-revocation-list");
  ASSERT_TRUE(trust_->add_revocations("mesh.example", revocation_list(ca_, {}, -9, -1), "crl.pem"));
  EXPECT_EQ(verdict(leaf), "no-revocation-list");
  EXPECT_EQ(live(leaf), "spiffe://mesh.example/a");  // a list that grows old ends no connection
  ASSERT_TRUE(trust_->add_revocations("mesh.example", revocation_list(ca_, {}), "crl.pem"));
  EXPECT_EQ(verdict(leaf), "spiffe://mesh.example/a");
}

TEST_F(Peers, AreRevokedWithTheCaAboveThem) {
  const Forged middle = forge(ca_plan("middle"), &ca_), leaf = forge({}, &middle);
  const Certificates chain = chain_of(middle);
  const auto judged = [&] { return verdict(leaf, PeerRole::client, TrustBundles::Moment::handshake, chain.get()); };
  // In the peer's chain, and then in the bundle too.
  for (const bool trusted : {false, true}) {
    trust_ = std::make_shared<TrustBundles>();
    ASSERT_TRUE(trust_->add("mesh.example", pem_of(ca_) + (trusted ? pem_of(middle) : ""), "ca.pem"));
    ASSERT_TRUE(trust_->add_revocations("mesh.example", revocation_list(middle, {}), "crl.pem"));
    EXPECT_EQ(judged(), "spiffe://mesh.example/a") << trusted;  // of what is above it nobody has a list
    ASSERT_TRUE(trust_->add_revocations("mesh.example", revocation_list(ca_, {}), "crl.pem"));
    EXPECT_EQ(judged(), "spiffe://mesh.example/a") << trusted;
    ASSERT_TRUE(trust_->add_revocations("mesh.example", revocation_list(ca_, {&middle}, 0), "crl.pem"));
    EXPECT_EQ(judged(), "certificate-revoked") << trusted;
  }
}

TEST_F(Peers, AreDeniedByName) {
  const auto id = SpiffeId::parse("spiffe://mesh.example/a");
  ASSERT_TRUE(id);
  trust_->deny({*id});
  EXPECT_EQ(verdict_of({}), "denied-identity");
  EXPECT_EQ(live(forge({}, &ca_)), "denied-identity");
  EXPECT_EQ(verdict_of({.alternative_names = "URI:spiffe://mesh.example/ab"}), "spiffe://mesh.example/ab");
}

TEST_F(Peers, ListsAreThoseOfTheirCas) {
  const Forged leaf = forge({}, &ca_), impostor = forge(ca_plan("CA"));
  ASSERT_TRUE(trust_->add_revocations("mesh.example", revocation_list(impostor, {}), "crl.pem"));
  EXPECT_EQ(verdict(leaf), "bad-chain");  // of that name, and by another key
  EXPECT_FALSE(trust_->add_revocations("mesh.example", "", "empty.pem"));
  EXPECT_FALSE(trust_->add_revocations("mesh.example", pem_of(ca_), "ca.pem"));
  EXPECT_FALSE(trust_->add_revocations("mesh.example", revocation_list(ca_, {}).substr(0, 150), "cut.pem"));
}

TEST_F(Peers, ABundleHoldsCasAlone) {
  EXPECT_FALSE(trust_->add("mesh.example", pem_of(forge({}, &ca_)), "leaf.pem"));
  EXPECT_FALSE(trust_->add("mesh.example", "", "empty.pem"));
  EXPECT_FALSE(trust_->add("mesh.example", pem_of(ca_).substr(0, 200), "cut.pem"));
}

// ---- handshakes ----

struct Ends {
  std::unique_ptr<PeerCheck> checks[2];  // client, server
  std::array<std::string, 2> verdicts;   // the peer's identity, or why not; "-": it was not the certificate

  Ends(std::shared_ptr<const TrustBundles> trust, const Forged* client, const Forged* server,
       std::vector<SpiffeId> clients_expect, std::vector<SpiffeId> servers_expect) {
    checks[0] = std::make_unique<PeerCheck>(trust, std::move(clients_expect));
    checks[1] = std::make_unique<PeerCheck>(trust, std::move(servers_expect));
    const Forged* own[] = {client, server};
    SslContext contexts[2];
    SslSession ssls[2];
    BIO* bios[2];
    require(BIO_new_bio_pair(&bios[0], 0, &bios[1], 0) == 1, "BIO_new_bio_pair");
    for (int i : {0, 1}) {
      contexts[i].reset(SSL_CTX_new(i == 0 ? TLS_client_method() : TLS_server_method()));
      prepare_peer_check(contexts[i].get());
      if (own[i]) {
        SSL_CTX_use_certificate(contexts[i].get(), own[i]->certificate.get());
        SSL_CTX_use_PrivateKey(contexts[i].get(), own[i]->key.get());
      }
      ssls[i].reset(SSL_new(contexts[i].get()));
      checks[i]->watch(ssls[i].get());
      SSL_set_bio(ssls[i].get(), bios[i], bios[i]);
      i == 0 ? SSL_set_connect_state(ssls[i].get()) : SSL_set_accept_state(ssls[i].get());
    }
    for (int turn = 0; turn < 20; turn++) {
      const int i = turn % 2;
      ERR_clear_error();
      if (!verdicts[i].empty() || SSL_do_handshake(ssls[i].get()) == 1) continue;
      const unsigned long code = ERR_peek_error();
      if (code == 0) continue;
      const auto refusal = checks[i]->refusal(code);
      verdicts[i] = refusal ? refusal->name() : "-";
    }
    ERR_clear_error();
    for (int i : {0, 1}) {
      if (verdicts[i].empty() && checks[i]->identity()) verdicts[i] = checks[i]->identity()->text();
    }
  }
};

using Verdicts = std::array<std::string, 2>;

TEST_F(Peers, AreToldApartInHandshakes) {
  const SpiffeId a = *SpiffeId::parse("spiffe://mesh.example/a"), b = *SpiffeId::parse("spiffe://mesh.example/b");
  const Forged client = forge({}, &ca_), server = forge({.alternative_names = "URI:" + b.text()}, &ca_);
  EXPECT_EQ(Ends(trust_, &client, &server, {}, {}).verdicts, (Verdicts{b.text(), a.text()}));
  EXPECT_EQ(Ends(trust_, &client, &server, {a, b}, {a}).verdicts, (Verdicts{b.text(), a.text()}));
  EXPECT_EQ(Ends(trust_, &client, &server, {a}, {}).verdicts[0], "wrong-identity");
  EXPECT_EQ(Ends(trust_, &client, &server, {}, {b}).verdicts[1], "wrong-identity");
  EXPECT_EQ(Ends(trust_, nullptr, &server, {}, {}).verdicts[1], "no-certificate");
  const Forged expired = forge({.starts_days = -2, .ends_days = -1}, &ca_);
  EXPECT_EQ(Ends(trust_, &expired, &server, {}, {}).verdicts[1], "expired");
  EXPECT_EQ(Ends(trust_, &client, &expired, {}, {}).verdicts[0], "expired");
}

// ---- the development CA ----

class DevelopmentCa : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove_all(folder_); }
  static mode_t mode_of(const std::string& file) {
    struct stat status {};
    return stat(file.c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
  }
  static std::string make_folder() {
    std::string path = std::filesystem::temp_directory_path() / "shunt-ca-XXXXXX";
    require(mkdtemp(path.data()) != nullptr, "mkdtemp");
    return path;
  }
  std::string folder_ = make_folder();
  std::string ca_ = folder_ + "/ca";
  SpiffeId id_ = *SpiffeId::parse("spiffe://mesh.example/host/a");
};

TEST_F(DevelopmentCa, IssuesWhatItsBundleVouchesFor) {
  const auto ca = make_development_ca(ca_, "mesh.example", 10);
  ASSERT_TRUE(ca) << ca.error().to_string();
  const auto issued = issue_certificate(ca_, id_, folder_ + "/a", 30);
  ASSERT_TRUE(issued) << issued.error().to_string();
  EXPECT_EQ(mode_of(ca_), 0700u);
  EXPECT_EQ(mode_of(ca->key), 0600u);
  EXPECT_EQ(mode_of(issued->key), 0600u);
  EXPECT_EQ(issued->expires, ca->expires);  // 30 days are more than the CA has
  const auto credentials = load_credentials(issued->certificate, issued->key);
  ASSERT_TRUE(credentials) << credentials.error().to_string();
  EXPECT_EQ(credentials->id, id_);
  TrustBundles trust;
  ASSERT_TRUE(trust.add("mesh.example", *read_config_text(issued->bundle), issued->bundle));
  EXPECT_TRUE(trust.verify(credentials->leaf.get(), nullptr, PeerRole::client));
  EXPECT_TRUE(trust.verify(credentials->leaf.get(), nullptr, PeerRole::server));
}

TEST_F(DevelopmentCa, NeverWritesOverAFile) {
  const auto ca = make_development_ca(ca_, "mesh.example", 10);
  ASSERT_TRUE(ca);
  EXPECT_FALSE(make_development_ca(ca_, "mesh.example", 10));
  std::filesystem::create_directory(folder_ + "/a");
  std::filesystem::create_symlink(folder_ + "/elsewhere", folder_ + "/a/bundle.pem");
  const auto issued = issue_certificate(ca_, id_, folder_ + "/a", 1);
  ASSERT_FALSE(issued);
  EXPECT_EQ(issued.error().code, EEXIST);
  // All or nothing.
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/a/key.pem"));
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/a/certificate.pem"));
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/elsewhere"));
}

TEST_F(DevelopmentCa, IssuesForItsTrustDomainAlone) {
  ASSERT_TRUE(make_development_ca(ca_, "mesh.example", 10));
  EXPECT_FALSE(issue_certificate(ca_, *SpiffeId::parse("spiffe://other.example/a"), folder_ + "/a", 1));
  EXPECT_FALSE(issue_certificate(folder_ + "/nowhere", id_, folder_ + "/a", 1));
  EXPECT_FALSE(make_development_ca(folder_ + "/b", "Mesh", 10));
}

TEST_F(DevelopmentCa, RevokesWhatItIssued) {
  const auto ca = make_development_ca(ca_, "mesh.example", 10);
  ASSERT_TRUE(ca);
  std::vector<Certificate> leaves;
  std::vector<std::string> files;
  for (const char* name : {"/a", "/b", "/c"}) {
    const auto issued = issue_certificate(ca_, id_, folder_ + name, 1);
    ASSERT_TRUE(issued) << issued.error().to_string();
    files.push_back(issued->certificate);
    leaves.push_back(std::move(load_credentials(issued->certificate, issued->key)->leaf));
  }
  // Which of them the list lets in.
  const auto allowed = [&](const Revoked& revoked) {
    TrustBundles trust;
    EXPECT_TRUE(trust.add("mesh.example", *read_config_text(ca->bundle), ca->bundle));
    EXPECT_TRUE(trust.add_revocations("mesh.example", *read_config_text(revoked.list), revoked.list));
    std::string names;
    for (size_t i = 0; i < leaves.size(); ++i)
      if (trust.verify(leaves[i].get(), nullptr, PeerRole::client)) names += "abc"[i];
    return names;
  };
  auto revoked = revoke_certificates(ca_, {}, 1);
  ASSERT_TRUE(revoked) << revoked.error().to_string();
  EXPECT_EQ(revoked->certificates, 0u);
  EXPECT_EQ(allowed(*revoked), "abc");
  revoked = revoke_certificates(ca_, {files[0]}, 1);
  ASSERT_TRUE(revoked) << revoked.error().to_string();
  EXPECT_EQ(allowed(*revoked), "bc");
  revoked = revoke_certificates(ca_, {files[2], files[0]}, 1);  // again: no second entry
  ASSERT_TRUE(revoked) << revoked.error().to_string();
  EXPECT_EQ(revoked->certificates, 2u);
  EXPECT_EQ(allowed(*revoked), "b");
  const CommandResult shown = run_command({"openssl", "crl", "-noout", "-crlnumber", "-in", revoked->list}, -1);
  EXPECT_NE(shown.output.find("crlNumber=0x03"), std::string::npos) << shown.output;
  EXPECT_FALSE(std::filesystem::exists(revoked->list + ".new"));
}

TEST_F(DevelopmentCa, RevokesNothingOfAnotherCa) {
  ASSERT_TRUE(make_development_ca(ca_, "mesh.example", 10));
  ASSERT_TRUE(make_development_ca(folder_ + "/other", "mesh.example", 10));
  const auto foreign = issue_certificate(folder_ + "/other", id_, folder_ + "/a", 1);
  ASSERT_TRUE(foreign);
  const auto revoked = revoke_certificates(ca_, {foreign->certificate}, 1);
  ASSERT_FALSE(revoked);
  EXPECT_EQ(revoked.error().code, EINVAL);
  EXPECT_FALSE(std::filesystem::exists(ca_ + "/ca.crl"));
  const auto other_list = revoke_certificates(folder_ + "/other", {foreign->certificate}, 1);
  ASSERT_TRUE(other_list);
  std::filesystem::rename(other_list->list, ca_ + "/ca.crl");
  EXPECT_FALSE(revoke_certificates(ca_, {}, 1)) << "a list that another CA has signed";
  EXPECT_FALSE(revoke_certificates(folder_ + "/nowhere", {}, 1));
}

TEST_F(DevelopmentCa, KeysThatAllMayReadAreNotUsed) {
  ASSERT_TRUE(make_development_ca(ca_, "mesh.example", 10));
  const auto issued = issue_certificate(ca_, id_, folder_ + "/a", 1);
  ASSERT_TRUE(issued);
  chmod(issued->key.c_str(), 0644);
  const auto credentials = load_credentials(issued->certificate, issued->key);
  ASSERT_FALSE(credentials);
  EXPECT_EQ(credentials.error().code, EACCES);
  const auto other = issue_certificate(ca_, id_, folder_ + "/b", 1);
  ASSERT_TRUE(other);
  EXPECT_FALSE(load_credentials(issued->certificate, other->key));  // not of one pair
}

}  // namespace

}  // namespace shunt::test
