// SPDX-License-Identifier: Apache-2.0
// Bad lengths and slots in chosen places go into a checked engine; their exact count and the first
// place of each sort come out.
#include <algorithm>
#include <limits>

#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

constexpr int32_t kMin = std::numeric_limits<int32_t>::min();
constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
constexpr int32_t kWindow = 40;
constexpr int32_t kCompressed = 700;  // long enough to be divided

// Three layers of two kinds, all lengths full, no bad slot.
CaseSpec clean_spec() {
  CaseSpec spec;
  spec.batch = 3;
  spec.queries = 2;
  spec.window = {kWindow, STEADY_CACHE_FP8, 16};
  spec.compressed = {{kCompressed, STEADY_CACHE_FP8, 2, Lengths::kPerQuery},
                     {kCompressed, STEADY_CACHE_BF16, 64, Lengths::kPerQuery}};
  spec.layers = {0, 1, 0};
  return spec;
}

HostileCase clean_case() {
  HostileCase c(clean_spec());
  std::fill_n(c.window_lengths(), 3, kWindow);
  std::fill_n(c.compressed_lengths(0), 6, kCompressed);
  std::fill_n(c.compressed_lengths(1), 6, kCompressed);
  c.refill_contents(2);
  return c;
}

int32_t& window_slot(const HostileCase& c, size_t layer, int64_t row, int64_t position) {
  return c.window_slots(layer)[row * c.layers[layer].window.slots_stride + position];
}

int32_t& compressed_slot(const HostileCase& c, size_t layer, int64_t row, int64_t position) {
  return c.compressed_slots(layer)[row * c.layers[layer].compressed.slots_stride + position];
}

testing::AssertionResult same(const steady_fault& got, const steady_fault& want) {
  const auto text = [](const steady_fault& f) {
    std::ostringstream out;
    out << "{count " << f.count << ", layer " << f.layer << ", kind " << f.kind << ", scope "
        << f.scope << ", request " << f.request << ", query " << f.query << ", position "
        << f.position << ", value " << f.value << '}';
    return out.str();
  };
  if (text(got) == text(want)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << text(got) << " instead of " << text(want);
}

constexpr steady_fault kNone = {0, -1, -1, -1, -1, -1, -1, -1};

class Report : public OnEveryBackend {
 protected:
  // The report on one eager step, which must be the one on a replayed one and for any number of
  // threads, where there are any.
  steady_report report_on(const HostileCase& c) const {
    steady_report first = {};
    const std::vector<int32_t> numbers_of_threads =
        is_device() ? std::vector<int32_t>{1} : std::vector<int32_t>{1, 2, 5};
    for (const int32_t threads : numbers_of_threads) {
      const Engine engine(c.shape(), {sizeof(steady_options), backend(), 0, threads, 1});
      const Caller caller(engine);
      caller.run(c);
      const steady_report eager = caller.report();
      caller.replay(caller.capture(c));
      const steady_report replayed = caller.report();
      if (threads == 1) first = eager;
      for (const steady_report* report : {&eager, &replayed}) {
        EXPECT_TRUE(same(report->negative_length, first.negative_length)) << threads;
        EXPECT_TRUE(same(report->long_length, first.long_length)) << threads;
        EXPECT_TRUE(same(report->stray_slot, first.stray_slot)) << threads;
      }
    }
    return first;
  }
};

INSTANTIATE_TEST_SUITE_P(, Report, kEveryBackend, backend_name);

TEST_P(Report, OnACleanStepCountsNothingAndNamesNoPlace) {
  const steady_report report = report_on(clean_case());
  EXPECT_TRUE(same(report.negative_length, kNone));
  EXPECT_TRUE(same(report.long_length, kNone));
  EXPECT_TRUE(same(report.stray_slot, kNone));
}

TEST_P(Report, CountsNegativeLengthsOfTheWindowOnceForAllKindsAndQueries) {
  const HostileCase c = clean_case();
  c.window_lengths()[1] = -5;
  c.window_lengths()[2] = kMin;
  const steady_report report = report_on(c);
  EXPECT_TRUE(same(report.negative_length, {2, -1, -1, 0, 1, -1, -1, -5}));
  EXPECT_EQ(report.long_length.count, 0);
  EXPECT_EQ(report.stray_slot.count, 0);
}

TEST_P(Report, CountsNegativeLengthsOfAKindPerQuery) {
  const HostileCase c = clean_case();
  c.compressed_lengths(1)[3] = -1;
  c.compressed_lengths(1)[5] = -2;
  c.compressed_lengths(0)[4] = kMin;
  EXPECT_TRUE(same(report_on(c).negative_length, {3, -1, 1, 1, 1, 1, -1, -1}));
}

TEST_P(Report, CountsLengthsAboveTheWidth) {
  const HostileCase c = clean_case();
  c.window_lengths()[2] = kWindow + 1;
  c.compressed_lengths(0)[4] = kMax;
  c.compressed_lengths(1)[1] = kCompressed + 1;
  EXPECT_TRUE(same(report_on(c).long_length, {3, -1, 1, 1, 0, 1, -1, kCompressed + 1}));
}

TEST_P(Report, CountsStraySlotsOfEachLayerInTheOrderOfRowsAndPositions) {
  const HostileCase c = clean_case();
  const auto behind = static_cast<int32_t>(c.layers[1].compressed.page_count * 64);
  window_slot(c, 2, 0, 0) = kMin;         // a later layer
  compressed_slot(c, 1, 5, 3) = kMax;     // a later row
  compressed_slot(c, 1, 4, 699) = -2;     // a later position
  compressed_slot(c, 1, 4, 17) = behind;  // the first of the compressed ones
  const steady_report report = report_on(c);
  EXPECT_TRUE(same(report.stray_slot, {4, 1, 1, 1, 2, 0, 17, behind}));
  window_slot(c, 1, 4, 39) = -3;  // the window comes first
  EXPECT_TRUE(same(report_on(c).stray_slot, {5, 1, 1, 0, 2, 0, 39, -3}));
  EXPECT_EQ(report.negative_length.count, 0);
  EXPECT_EQ(report.long_length.count, 0);
}

TEST_P(Report, LeavesOutHolesAndSlotsPastTheLength) {
  HostileCase c = clean_case();
  window_slot(c, 0, 0, 0) = -1;
  c.window_lengths()[1] = 3;
  for (int64_t position = 3; position < kWindow; ++position)
    for (size_t layer = 0; layer < 3; ++layer) window_slot(c, layer, 2, position) = kMax;
  EXPECT_EQ(report_on(c).stray_slot.count, 0);
}

TEST_P(Report, CountsEveryOne) {
  const HostileCase c = clean_case();
  for (size_t layer = 0; layer < 3; ++layer)
    for (int64_t row = 0; row < 6; ++row)
      for (int64_t position = 0; position < kCompressed; ++position)
        compressed_slot(c, layer, row, position) = -2;
  EXPECT_TRUE(same(report_on(c).stray_slot, {3 * 6 * kCompressed, 0, 0, 1, 0, 0, 0, -2}));
}

TEST_P(Report, BeginsAnewWithEachPlan) {
  const HostileCase c = clean_case();
  const Engine engine(c.shape(), {sizeof(steady_options), backend(), 0, 2, 1});
  const Caller caller(engine);
  const int32_t good = window_slot(c, 0, 0, 0);
  window_slot(c, 0, 0, 0) = kMax;
  c.window_lengths()[0] = kWindow + 1;
  caller.run(c);
  EXPECT_EQ(caller.report().stray_slot.count, 1);
  EXPECT_EQ(caller.report().stray_slot.count, 1) << "reading changes the report";
  caller.run(c);
  EXPECT_EQ(caller.report().stray_slot.count, 1);
  EXPECT_EQ(caller.report().long_length.count, 1);
  window_slot(c, 0, 0, 0) = good;
  c.window_lengths()[0] = kWindow;
  caller.run(c);
  EXPECT_EQ(caller.report().stray_slot.count, 0);
  EXPECT_EQ(caller.report().long_length.count, 0);
}

TEST_P(Report, CheckingChangesNoBit) {
  CaseSpec spec = clean_spec();
  spec.window.wild_lengths = true;
  spec.window.stray_percent = 20;
  const HostileCase c(spec);
  const Outputs unchecked = run_alone(c, backend());
  c.reset_outputs();
  const Engine engine(c.shape(), {sizeof(steady_options), backend(), 0, 0, 1});
  Caller(engine).run(c);
  EXPECT_TRUE(same_bits(c.outputs(), unchecked));
}

}  // namespace
}  // namespace steady::test
