// SPDX-License-Identifier: Apache-2.0
// Plan alone: every unit of every row is dealt exactly once, borders follow from a row's own
// lengths, and no length can lead outside the tables.
#include "cpu/plan.hpp"

#include <gtest/gtest.h>

#include <climits>
#include <random>
#include <set>
#include <vector>

namespace steady::cpu {
namespace {

constexpr PlanLimits kLimits = {/*parts=*/6, /*slots=*/40, /*unit_tokens=*/512, /*max_units=*/32};

Shape shape_of(int batch, int queries, int window, int compressed) {
  Shape shape = {8, queries, batch, 1, 1.0f, {STEADY_CACHE_FP8, 64, window}, {}};
  shape.compressed[0] = {STEADY_CACHE_FP8, 64, compressed};
  return shape;
}

/// A plan with tables of its own, filled with garbage before and guarded by a sentinel row behind.
class Planned {
 public:
  Planned(const Shape& shape, const PlanLimits& limits_given, const Step& step,
          FaultLog* faults = nullptr)
      : limits(limits_given),
        parts(limits.parts, PartRange{{-7, -7}, {-7, -7}}),
        rows(shape.max_rows() + 1, RowPlan{{-7, -7}, -7}),
        split_rows(limits.parts, -7) {
    header.split_count = -7;
    plan(shape, limits, step, 0, {&header, parts.data(), rows.data(), split_rows.data()}, faults);
    EXPECT_EQ(rows.back().first_slot, -7) << "plan wrote behind its rows";
    rows.resize(static_cast<size_t>(step.batch) * shape.queries);
    split_rows.resize(header.split_count);
  }

  Units units(size_t row) const {
    return cut_row(rows[row].tokens[0] + rows[row].tokens[1], limits);
  }

  PlanLimits limits;
  PlanHeader header = {};
  std::vector<PartRange> parts;
  std::vector<RowPlan> rows;
  std::vector<int32_t> split_rows;
};

void expect_every_unit_dealt_once(const Planned& planned) {
  WorkPosition at = {0, 0};
  for (const PartRange& part : planned.parts) {
    EXPECT_EQ(part.begin.row, at.row);
    EXPECT_EQ(part.begin.unit, at.unit);
    at = part.end;
    if (at.unit == 0) continue;
    ASSERT_LT(at.row, static_cast<int32_t>(planned.rows.size()));
    EXPECT_NE(planned.rows[at.row].first_slot, RowPlan::kWhole) << "a border divides a whole row";
    EXPECT_LT(at.unit, planned.units(at.row).count);
  }
  EXPECT_EQ(at.row, static_cast<int32_t>(planned.rows.size()));
  EXPECT_EQ(at.unit, 0);
}

void expect_slots_apart_and_in_range(const Planned& planned, int32_t most) {
  std::set<int32_t> slots;
  size_t wanted = 0;
  for (int32_t row : planned.split_rows) {
    const RowPlan& plan = planned.rows[row];
    for (int32_t unit = 0; unit < planned.units(row).count; ++unit)
      slots.insert(plan.first_slot + unit);
    wanted += planned.units(row).count;
  }
  EXPECT_EQ(slots.size(), wanted);
  if (!slots.empty()) {
    EXPECT_GE(*slots.begin(), 0);
    EXPECT_LT(*slots.rbegin(), most);
  }
  size_t split = 0;
  for (const RowPlan& row : planned.rows) split += row.first_slot != RowPlan::kWhole ? 1 : 0;
  EXPECT_EQ(split, planned.split_rows.size()) << "merge would not finish every split row";
}

TEST(Plan, DealsEveryUnitOnceForRandomLengths) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 400; ++trial) {
    const int queries = 1 + static_cast<int>(random() % 4),
              batch = 1 + static_cast<int>(random() % 40);
    const Shape shape = shape_of(batch, queries, 128, trial % 3 == 0 ? 65536 : 2048);
    std::vector<int32_t> window(batch * queries), compressed(batch * queries);
    const int longest = trial % 2 == 0 ? 65536 : 700;
    for (int32_t& length : window) length = static_cast<int32_t>(random() % 129);
    for (int32_t& length : compressed) length = static_cast<int32_t>(random() % longest);
    Step step = {batch, {window.data(), 1}, {}};
    step.compressed[0] = {compressed.data(), 1};
    const PlanLimits limits = {1 + static_cast<int>(random() % 9), static_cast<int>(random() % 70),
                               512, 32};
    const Planned planned(shape, limits, step);
    expect_every_unit_dealt_once(planned);
    expect_slots_apart_and_in_range(planned, limits.slots);
  }
}

TEST(Plan, CutsARowByItsOwnLengthsWhateverItsNeighboursAndTheNumberOfParts) {
  const std::vector<int32_t> lengths = {1000, 3, 65536, 0, 640, 513};
  Shape shape = shape_of(6, 1, 0, 65536);
  Step together = {6, {}, {}};
  together.compressed[0] = {lengths.data(), 0};
  for (int parts : {1, 2, 5, 64}) {
    const PlanLimits limits = {parts, 4 * parts, 512, 32};
    const Planned batch(shape, limits, together);
    for (size_t row = 0; row < lengths.size(); ++row) {
      Step alone = {1, {}, {}};
      alone.compressed[0] = {&lengths[row], 0};
      const Planned single(shape, kLimits, alone);
      EXPECT_EQ(batch.units(row).count, single.units(0).count);
      EXPECT_EQ(batch.units(row).tokens_each, single.units(0).tokens_each);
    }
  }
}

/// Otherwise two short rows would keep one part busy for longer than the longest row while another
/// has none.
TEST(Plan, RowsOfOneUnitEachThatAreNoMoreThanThePartsHaveAPartEach) {
  const std::vector<int32_t> lengths = {512, 3, 0, 400, 200, 200};
  const int rows = static_cast<int>(lengths.size());
  const Shape shape = shape_of(rows, 1, 0, 512);
  Step step = {rows, {}, {}};
  step.compressed[0] = {lengths.data(), 0};
  for (const int parts : {rows, rows + 3}) {
    const Planned planned(shape, {parts, 40, 512, 32}, step);
    expect_every_unit_dealt_once(planned);
    expect_slots_apart_and_in_range(planned, 0);
    for (int part = 0; part < parts; ++part) {
      const PartRange& range = planned.parts[part];
      EXPECT_EQ(range.end.row - range.begin.row, part < rows ? 1 : 0) << part << " of " << parts;
    }
  }
}

TEST(Plan, EveryRowOfSeveralUnitsIsSplitIfTheyAreFewAndAllTheirPartialsFit) {
  std::mt19937 random(2);
  int fitting = 0;
  for (int trial = 0; trial < 400; ++trial) {
    const int batch = 1 + static_cast<int>(random() % 60);
    std::vector<int32_t> compressed(batch);
    int32_t units = 0, rows = 0;
    for (int32_t& length : compressed) {
      length = static_cast<int32_t>(random() % (trial % 2 == 0 ? 9000 : 700));
      const int32_t own = cut_row(length, {1, 0, 512, 32}).count;
      units += own > 1 ? own : 0;
      rows += own > 1 ? 1 : 0;
    }
    Step step = {batch, {}, {}};
    step.compressed[0] = {compressed.data(), 0};
    const int slots = static_cast<int>(random() % 70);
    const PlanLimits limits = {1 + static_cast<int>(random() % 40), slots, 512, 32,
                               std::max(slots, units - 1 + trial % 3)};
    const Planned planned(shape_of(batch, 1, 0, 65536), limits, step);
    expect_every_unit_dealt_once(planned);
    const bool fit = units > 0 && units <= limits.all_slots && rows < limits.parts;
    expect_slots_apart_and_in_range(planned, fit ? limits.all_slots : limits.slots);
    if (!fit) continue;
    ++fitting;
    for (size_t row = 0; row < planned.rows.size(); ++row) {
      EXPECT_EQ(planned.rows[row].first_slot != RowPlan::kWhole, planned.units(row).count > 1)
          << "row " << row;
    }
  }
  EXPECT_GT(fitting, 50);
  EXPECT_LT(fitting, 350);
}

TEST(Plan, UnitsAreWholeTilesThatCoverTheRowAndAreNeverEmpty) {
  PlanLimits of_two = kLimits;
  of_two.whole_tokens = 300;
  for (const PlanLimits& limits : {kLimits, of_two}) {
    for (int32_t tokens = 1; tokens <= 131072; tokens += tokens < 3000 ? 1 : 997) {
      const Units units = cut_row(tokens, limits);
      EXPECT_EQ(units.tokens_each % kTileTokens, 0);
      EXPECT_LE(units.count, limits.max_units);
      EXPECT_GE(units.tokens_each * units.count, tokens);
      EXPECT_LT(units.tokens_each * (units.count - 1), tokens);
    }
    EXPECT_EQ(cut_row(0, limits).count, 1) << "somebody has to write the empty answer";
  }
}

TEST(Plan, RowsThatAreNoLongerWholeAreTwoUnitsAndLongOnesAreCutAsEver) {
  PlanLimits limits = kLimits;
  limits.whole_tokens = 300;
  for (int32_t tokens = 0; tokens <= 4000; ++tokens) {
    const Units units = cut_row(tokens, limits), usual = cut_row(tokens, kLimits);
    const bool two = tokens > limits.whole_tokens && tokens <= limits.unit_tokens;
    EXPECT_EQ(units.count, two ? 2 : usual.count) << tokens;
    if (two) continue;
    EXPECT_EQ(units.tokens_each, usual.tokens_each) << tokens;
  }
}

TEST(Plan, RowsOfSeveralUnitsHaveAPartEachIfThereAreNoSlots) {
  const std::vector<int32_t> lengths = {5000, 1, 700, 0, 3000};
  Step step = {static_cast<int>(lengths.size()), {}, {}};
  step.compressed[0] = {lengths.data(), 0};
  // There are none, too, if all that there are would not do for all rows.
  for (const int all_slots : {0, 10}) {
    for (const int parts : {4, 5, 6}) {
      const PlanLimits limits = {parts, 0, 512, 32, all_slots};
      const Planned planned(shape_of(step.batch, 1, 0, 65536), limits, step);
      expect_every_unit_dealt_once(planned);
      EXPECT_TRUE(planned.split_rows.empty());
      if (step.batch > parts) continue;
      for (int part = 0; part < parts; ++part) {
        EXPECT_EQ(planned.parts[part].begin.row, std::min(part, step.batch));
        EXPECT_EQ(planned.parts[part].end.row, std::min(part + 1, step.batch));
      }
    }
  }
}

TEST(Plan, ALongRowIsSharedByAllParts) {
  const int32_t length = 65536;
  Step step = {1, {}, {}};
  step.compressed[0] = {&length, 0};
  const Planned planned(shape_of(1, 1, 0, 65536), kLimits, step);
  EXPECT_EQ(planned.header.split_count, 1);
  for (const PartRange& part : planned.parts) {
    const int units = (part.end.row - part.begin.row) * 32 + part.end.unit - part.begin.unit;
    EXPECT_NEAR(units, 32.0 / kLimits.parts, 1.0);
  }
}

TEST(Plan, WithoutFreeSlotsRowsStayWhole) {
  const std::vector<int32_t> lengths(3, 65536);
  Step step = {3, {}, {}};
  step.compressed[0] = {lengths.data(), 0};
  const PlanLimits limits = {2, /*slots=*/31, 512, 32};
  const Planned planned(shape_of(3, 1, 0, 65536), limits, step);
  EXPECT_EQ(planned.header.split_count, 0);
  expect_every_unit_dealt_once(planned);
}

TEST(Plan, ClampsLengthsAndCountsBadOnesOnce) {
  const std::vector<int32_t> window = {-1, 129, INT_MIN, 128};
  const std::vector<int32_t> compressed = {INT_MAX, 0, 7, 2048};
  Step step = {4, {window.data(), 0}, {}};
  step.compressed[0] = {compressed.data(), 0};
  FaultLog faults = {};
  const Planned planned(shape_of(4, 3, 128, 2048), kLimits, step, &faults);
  const int32_t expected[4][2] = {{0, 2048}, {128, 0}, {0, 7}, {128, 2048}};
  for (int row = 0; row < 12; ++row) {
    EXPECT_EQ(planned.rows[row].tokens[0], expected[row / 3][0]);
    EXPECT_EQ(planned.rows[row].tokens[1], expected[row / 3][1]);
  }
  EXPECT_EQ(faults.negative_length.count, 2) << "not once for each of the three queries";
  EXPECT_EQ(faults.negative_length.request, 0);
  EXPECT_EQ(faults.negative_length.value, -1);
  EXPECT_EQ(faults.long_length.count, 2);
  EXPECT_EQ(faults.long_length.scope, 1);
  EXPECT_EQ(faults.long_length.value, INT_MAX);
  EXPECT_EQ(faults.stray_slot.count, 0);
}

TEST(Plan, LengthsPerQueryAndAbsentLengthsMeanWhatTheHeaderSays) {
  const std::vector<int32_t> window = {1, 2, 3, 4};
  Step step = {2, {window.data(), 1}, {}};  // compressed: NULL, the full width
  const Planned planned(shape_of(2, 2, 128, 100), kLimits, step);
  for (int row = 0; row < 4; ++row) {
    EXPECT_EQ(planned.rows[row].tokens[0], row + 1);
    EXPECT_EQ(planned.rows[row].tokens[1], 100);
  }
}

}  // namespace
}  // namespace steady::cpu
