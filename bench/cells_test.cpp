// The harness must notice what goes wrong in what it measures: these tests break things on purpose.
#include <gtest/gtest.h>

#include <bench/cells.hpp>
#include <bench/channel.hpp>
#include <bench/pattern.hpp>
#include <cstring>
#include <set>

namespace shunt::bench {
namespace {

uint64_t hash_of(const std::vector<unsigned char>& bytes) {
  StreamHash hash;
  hash.add(bytes.data(), bytes.size());
  return hash.value();
}

std::vector<unsigned char> stream(const Pattern& pattern, size_t bytes) {
  std::vector<unsigned char> all;
  for (size_t offset = 0; offset < bytes; offset += 1024)
    all.insert(all.end(), pattern.at(offset), pattern.at(offset) + 1024);
  return all;
}

TEST(Pattern, HashDoesNotDependOnHowTheStreamIsCut) {
  Pattern pattern(1024);
  std::vector<unsigned char> all = stream(pattern, 256 * 1024);
  StreamHash pieces;
  for (size_t at = 0, step = 1; at < all.size(); at += step, step = step * 3 % 7001 + 1) {
    pieces.add(all.data() + at, std::min(step, all.size() - at));
  }
  EXPECT_EQ(pieces.value(), hash_of(all));
  EXPECT_EQ(pattern_hash(pattern, all.size()), hash_of(all));
}

TEST(Pattern, HashNoticesExchangedLostAndRepeatedMessages) {
  Pattern pattern(1024);
  std::vector<unsigned char> good = stream(pattern, 256 * 1024);
  std::set<uint64_t> hashes = {hash_of(good)};
  std::vector<unsigned char> exchanged = good;
  std::swap_ranges(exchanged.begin() + 1024, exchanged.begin() + 2048, exchanged.begin() + 65 * 1024);
  hashes.insert(hash_of(exchanged));
  std::vector<unsigned char> lost = good;
  lost.erase(lost.begin() + 4096, lost.begin() + 5120);
  hashes.insert(hash_of(lost));
  std::vector<unsigned char> repeated = good;
  std::memcpy(repeated.data() + 64 * 1024, repeated.data(), 64 * 1024);
  hashes.insert(hash_of(repeated));
  std::vector<unsigned char> flipped = good;
  flipped[99999] ^= 1;
  hashes.insert(hash_of(flipped));
  EXPECT_EQ(hashes.size(), 5u);
}

TEST(Cells, HaveDistinctNames) {
  std::set<std::string> names;
  for (const Cell& cell : all_cells(2)) names.insert(cell.name());
  EXPECT_EQ(names.size(), all_cells(2).size());
  EXPECT_EQ(names.count("one-way/1MiB/2cpu"), 1u);
  for (const Cell& cell : all_cells(1)) EXPECT_EQ(cell.cpus, 1);
}

class EachVariantWithoutEngine : public testing::TestWithParam<Variant> {};

TEST_P(EachVariantWithoutEngine, RunsEveryKindOfCellWithItsIntegrityChecked) {
  for (const Cell& cell : all_cells(1)) {
    if (!cell_has_variant(cell, GetParam())) continue;
    Result<uint16_t> port = free_port();
    ASSERT_TRUE(port);
    RunSpec spec;
    spec.cell = cell;
    spec.variant = GetParam();
    spec.seconds = 0.02;
    spec.port = *port;
    spec.cpu_of_client = spec.cpu_of_server = usable_cpus().front();
    Sample sample = run_cell(spec);
    EXPECT_EQ(sample.error, "") << cell.name();
    EXPECT_GT(sample.value, 0) << cell.name();
    EXPECT_GE(sample.p99_us, sample.p50_us) << cell.name();
  }
}

INSTANTIATE_TEST_SUITE_P(Channels, EachVariantWithoutEngine,
                         testing::Values(Variant::plain, Variant::unix, Variant::shm),
                         [](const auto& param) { return variant_info(param.param).name; });

TEST(RunCell, SaysWhyAnEndCouldNotRun) {
  RunSpec spec;
  spec.cell = all_cells(1).front();
  spec.seconds = 0.02;
  spec.port = *free_port();
  spec.cgroup_of_server = "/nonexistent/cgroup.procs";
  Sample sample = run_cell(spec);
  EXPECT_NE(sample.error.find("/nonexistent/cgroup.procs"), std::string::npos) << sample.error;
  EXPECT_EQ(sample.value, 0);
}

TEST(ShmRing, KeepsEveryByteAcrossItsWrap) {
  static ShmRing ring;
  Pattern pattern(300000);
  std::vector<unsigned char> got(300000);
  for (int turn = 0; turn < 20; turn++) {
    ring.write(pattern.at(uint64_t(turn) * 300000), 300000, false);
    for (size_t at = 0; at < got.size();) at += ring.read(got.data() + at, got.size() - at, false);
    ASSERT_EQ(std::memcmp(got.data(), pattern.at(uint64_t(turn) * 300000), got.size()), 0) << turn;
  }
}

}  // namespace
}  // namespace shunt::bench
