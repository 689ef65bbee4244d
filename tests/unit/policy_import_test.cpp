// The folder of policies changes all at once, or not at all.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <control/policy_import.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

namespace shunt {
namespace {

namespace fs = std::filesystem;

std::string workload(const std::string& name) {
  return "apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: " + name +
         ", labels: {app: x}}\nspec: {match: {uid: 1}}\n";
}

class PolicyImport : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/shunt-import-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    top_ = name;
    folder_ = top_ / "policy";
  }
  void TearDown() override { fs::remove_all(top_); }

  void write(const std::string& name, const std::string& text) {
    fs::create_directories(folder_);
    std::ofstream(folder_ / name) << text;
  }
  std::map<std::string, std::string> content() const {
    std::map<std::string, std::string> files;
    if (!fs::exists(folder_)) return files;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      std::ifstream file(entry.path());
      files[entry.path().filename()] = std::string(std::istreambuf_iterator<char>(file), {});
    }
    return files;
  }
  size_t neighbours() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(top_), fs::directory_iterator()));
  }

  fs::path top_, folder_;
};

TEST_F(PolicyImport, MakesTheFolder) {
  {
    auto staged = StagedPolicies::make(folder_, {{"/else/a.yaml", workload("a")}}, false);
    ASSERT_TRUE(staged) << staged.error().to_string();
    EXPECT_TRUE(staged->check().ok());
    EXPECT_TRUE(content().empty());
    ASSERT_TRUE(staged->exchange());
  }
  EXPECT_EQ(content(), (std::map<std::string, std::string>{{"a.yaml", workload("a")}}));
  EXPECT_EQ(neighbours(), 1u);
  struct stat info = {};
  ASSERT_EQ(stat(folder_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0755u);
}

TEST_F(PolicyImport, AddsAndReplacesByName) {
  write("a.yaml", workload("a"));
  write("b.yaml", workload("b"));
  write("README", "keep");
  {
    auto staged = StagedPolicies::make(folder_, {{"b.yaml", workload("b2")}, {"c.json", "{}"}}, false);
    ASSERT_TRUE(staged);
    EXPECT_TRUE(staged->removed().empty());
    ASSERT_TRUE(staged->exchange());
  }
  EXPECT_EQ(content(),
            (std::map<std::string, std::string>{
                {"README", "keep"}, {"a.yaml", workload("a")}, {"b.yaml", workload("b2")}, {"c.json", "{}"}}));
  {
    auto staged = StagedPolicies::make(folder_, {{"d.yml", workload("d")}}, true);
    ASSERT_TRUE(staged);
    EXPECT_EQ(staged->removed(), (std::vector<std::string>{"a.yaml", "b.yaml", "c.json"}));
    ASSERT_TRUE(staged->exchange());
  }
  EXPECT_EQ(content(), (std::map<std::string, std::string>{{"README", "keep"}, {"d.yml", workload("d")}}));
  EXPECT_EQ(neighbours(), 1u);
}

// What stays counts too: the same name twice is seen before anything changes.
TEST_F(PolicyImport, ChecksTheFolderAsItWillBe) {
  write("a.yaml", workload("a"));
  auto staged = StagedPolicies::make(folder_, {{"/else/b.yaml", workload("a")}}, false);
  ASSERT_TRUE(staged);
  const policy::Loaded loaded = staged->check();
  ASSERT_EQ(loaded.problems.size(), 1u);
  EXPECT_EQ(loaded.problems[0].file, "/else/b.yaml");
  EXPECT_NE(loaded.problems[0].remedy.find((folder_ / "a.yaml").string()), std::string::npos);
  auto replacing = StagedPolicies::make(folder_, {{"/else/b.yaml", workload("a")}}, true);
  ASSERT_TRUE(replacing);
  EXPECT_TRUE(replacing->check().ok());
}

TEST_F(PolicyImport, IsTakenBackWhole) {
  write("a.yaml", workload("a"));
  const auto before = content();
  {
    auto staged = StagedPolicies::make(folder_, {{"a.yaml", workload("other")}, {"b.yaml", workload("b")}}, true);
    ASSERT_TRUE(staged);
    ASSERT_TRUE(staged->exchange());
    EXPECT_NE(content(), before);
    ASSERT_TRUE(staged->take_back());
  }
  EXPECT_EQ(content(), before);
  EXPECT_EQ(neighbours(), 1u);
  fs::remove_all(folder_);
  {
    auto staged = StagedPolicies::make(folder_, {{"a.yaml", workload("a")}}, false);
    ASSERT_TRUE(staged);
    ASSERT_TRUE(staged->exchange());
    ASSERT_TRUE(staged->take_back());
  }
  EXPECT_EQ(neighbours(), 0u);
}

TEST_F(PolicyImport, RefusesWhatItCannotKeepOrName) {
  write("a.yaml", workload("a"));
  fs::create_directory(folder_ / "sub");
  EXPECT_FALSE(StagedPolicies::make(folder_, {{"b.yaml", ""}}, false));
  fs::remove(folder_ / "sub");
  EXPECT_FALSE(StagedPolicies::make(folder_, {{"b.txt", ""}}, false));
  EXPECT_FALSE(StagedPolicies::make(folder_, {{"x/b.yaml", ""}, {"y/b.yaml", ""}}, false));
  EXPECT_EQ(content().size(), 1u);
  EXPECT_EQ(neighbours(), 1u);
}

}  // namespace
}  // namespace shunt
