// SPDX-License-Identifier: Apache-2.0
// How work is cut on a card follows from shape and card alone, so it is tested without one.
#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <random>

#include "cuda/attend.hpp"
#include "cuda/divisor.hpp"
#include "cuda/engine.hpp"
#include "cuda/memory.hpp"

namespace steady::cuda {
namespace {

constexpr size_t kHopper = 227 * 1024, kAmpere = 163 * 1024, kAda = 99 * 1024;

Shape shape_of(int heads, int compressed, steady_cache_format format = STEADY_CACHE_FP8) {
  Shape shape = {heads, 1, STEADY_MAX_BATCH, 1, 1.0f, {format, 64, 128}, {}};
  shape.compressed[0] = {format, 64, compressed};
  return shape;
}

TEST(Choice, EveryCardOfTheListHasAGroupForEveryShape) {
  for (const size_t card : {kHopper, kAmpere, kAda}) {
    for (const auto format : {STEADY_CACHE_FP8, STEADY_CACHE_BF16}) {
      for (int heads = 1; heads <= STEADY_MAX_HEADS; ++heads) {
        for (const int rows : {1, 100, 40000}) {
          const AttendChoice choice = choose_attend(shape_of(heads, 512, format), rows, 132, card);
          EXPECT_GE(choice.heads, 16);
          EXPECT_LE(choice.shared_bytes, card);
        }
      }
    }
  }
}

TEST(Choice, ManyRowsTakeTheLargestGroupAndFewRowsSpreadTheirHeads) {
  EXPECT_EQ(choose_attend(shape_of(64, 512), 132, 132, kHopper).heads, 64);
  EXPECT_EQ(choose_attend(shape_of(64, 512), 66, 132, kHopper).heads, 32);
  EXPECT_EQ(choose_attend(shape_of(64, 512), 1, 132, kHopper).heads, 16);
  EXPECT_EQ(choose_attend(shape_of(128, 512), 4096, 132, kAda).heads, 32);
}

TEST(Choice, FewHeadsAreNotPaddedToALargeGroup) {
  EXPECT_EQ(choose_attend(shape_of(8, 512), 4096, 132, kHopper).heads, 16);
  EXPECT_EQ(choose_attend(shape_of(32, 512), 4096, 132, kHopper).heads, 32);
}

TEST(Choice, NoShapeNeedsMoreThan35MegabytesOnACardOf132) {
  for (const int heads : {1, 8, 16, 63, 64, 65, 128}) {
    for (const int compressed : {0, 512, 1024, 8192, 65536}) {
      for (const int kinds : {1, 3, int{STEADY_MAX_KINDS}}) {
        Shape shape = shape_of(heads, compressed);
        shape.queries = STEADY_MAX_QUERIES;
        shape.kinds = kinds;
        for (int kind = 1; kind < kinds; ++kind) shape.compressed[kind] = shape.compressed[0];
        for (const bool hopper : {false, true}) {
          const Cut cut = cut_for(shape, 132, hopper);
          EXPECT_LE(MemoryMap(shape, cut.limits, cut.room).bytes(), 35'000'000u)
              << heads << " heads, " << compressed << " tokens, " << kinds << " kinds";
        }
      }
    }
  }
}

#if STEADY_WITH_SM90
/// In the workspace, where they have the end of the partials.
void expect_kept_behind_slots(const Shape& shape, const Cut& cut) {
  std::byte* const base = nullptr;
  const Tables tables = MemoryMap(shape, cut.limits, cut.room).tables(base, 0, true);
  const auto address = [](const float* at) { return reinterpret_cast<uintptr_t>(at); };
  const size_t partial_bytes = size_t{1} * shape.heads * kHeadDim * sizeof(float);
  const size_t kept_bytes = cut.room.kept * sizeof(float);
  EXPECT_GE(address(tables.kept), address(tables.outs) + cut.limits.slots * partial_bytes)
      << shape.heads << " heads";
  EXPECT_EQ(address(tables.kept) + kept_bytes,
            address(tables.outs) + cut.room.partials * partial_bytes)
      << shape.heads << " heads";
  EXPECT_LE(cut.limits.all_slots, cut.room.partials);
}

TEST(Choice, OnlyHoppersKernelsLeaveAllUnitsToMerge) {
  for (const int compressed : {1024, 8192, 65536}) {
    Shape shape = shape_of(64, compressed);
    EXPECT_EQ(cut_for(shape, 132, false).limits.all_slots, 0);
    const Cut cut = cut_for(shape, 132, true);
    EXPECT_EQ(cut.limits.all_slots > cut.limits.slots, compressed > 1024);
    shape.max_batch = 2;
    EXPECT_EQ(cut_for(shape, 132, true).limits.all_slots,
              compressed > 1024 ? 2 * cut_row(128 + compressed, cut.limits).count : 0)
        << "no more than there can be";
  }
}

void expect_room_for_what_is_kept(const Shape& shape, int multiprocessors) {
  const sm90::Room room = {multiprocessors / 2, multiprocessors / 4, multiprocessors / 8};
  const Cut cut = cut_for(shape, multiprocessors, true);
  expect_kept_behind_slots(shape, cut);
  for (const int rows : {1, 2, 8, 16, 33, 64, 67, 500}) {
    const sm90::Spread spread = sm90::choose_spread(shape, cut.limits, rows, room);
    const int products = sm90::group_heads(shape.heads, spread.groups) <= 32 ? 32 : 64;
    EXPECT_LE(size_t{1} * spread.parts * spread.groups * products * kHeadDim, cut.room.kept)
        << shape.heads << " heads, " << rows << " rows, " << multiprocessors << " multiprocessors";
  }
}

TEST(Choice, BlocksOfHoppersKernelsHaveRoomForWhatTheyKeepOfARow) {
  for (const int multiprocessors : {78, 114, 132, 144}) {
    for (int heads = 1; heads <= STEADY_MAX_HEADS; ++heads) {
      expect_room_for_what_is_kept(shape_of(heads, 2000), multiprocessors);
      // With few heads these have two units.
      if (heads <= 16) expect_room_for_what_is_kept(shape_of(heads, 1024), multiprocessors);
    }
  }
}
#endif

TEST(Divisor, DividesAsDivisionDoes) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  std::mt19937 random(5);
  for (const int32_t number :
       {1, 2, 3, 5, 7, 64, 100, 255, 256, 65537, kMost / 2, kMost - 1, kMost}) {
    const Divisor divisor(number);
    EXPECT_EQ(divisor.number(), number);
    for (int32_t multiple = 0, i = 0; i < 1000 && multiple <= kMost - number; ++i) {
      multiple += number;  // and its neighbours, where the quotient changes
      EXPECT_EQ(divisor.divide(multiple - 1), (multiple - 1) / number) << number;
      EXPECT_EQ(divisor.divide(multiple), multiple / number) << number;
    }
    for (int i = 0; i < 1000; ++i) {
      const auto value = static_cast<int32_t>(random() >> 1);
      EXPECT_EQ(divisor.divide(value), value / number) << value << " / " << number;
    }
    EXPECT_EQ(divisor.divide(0), 0);
    EXPECT_EQ(divisor.divide(kMost), kMost / number) << number;
  }
}

TEST(Choice, TheRowsOfDeepSeekV4AreOneUnitOrTwoWithFewHeadsOnHopper) {
  for (const int compressed : {0, 512, 1024}) {
    for (const int heads : {8, 16, 17, 64, 128}) {
      for (const bool hopper : {false, true}) {
        const PlanLimits limits = cut_for(shape_of(heads, compressed), 132, hopper).limits;
        const bool two = hopper && heads <= 16 && compressed == 1024;
        EXPECT_EQ(cut_row(128 + compressed, limits).count, two ? 2 : 1) << heads << " heads";
        EXPECT_EQ(limits.slots > 0, two) << heads << " heads";
      }
    }
  }
}

#if STEADY_WITH_SM90
/// What the step's limits are with the room of 132 multiprocessors; units are always the engine's.
PlanLimits limits_of(const Shape& shape, int kind, int rows) {
  const PlanLimits cut = cut_for(shape, 132, true).limits;
  const sm90::Spread spread = sm90::choose_spread(shape, cut, rows, {66, 33, 16});
  const PlanLimits limits = limits_for(shape, kind, cut, spread, rows);
  EXPECT_EQ(limits.unit_tokens, cut.unit_tokens);
  EXPECT_EQ(limits.max_units, cut.max_units);
  EXPECT_EQ(limits.whole_tokens, cut.whole_tokens);
  EXPECT_EQ(limits.parts, spread.parts);
  return limits;
}

TEST(Choice, ShortRowsAreSplitOnlyWhereThatLeavesLessToDo) {
  Shape two_kinds = shape_of(16, 1024);
  two_kinds.kinds = 2;
  two_kinds.compressed[1] = {STEADY_CACHE_FP8, 64, 8192};
  for (const Shape& shape : {shape_of(16, 1024), two_kinds}) {
    for (int rows = 1; rows <= 300; ++rows) {
      const PlanLimits limits = limits_of(shape, 0, rows);
      // On 66 pairs of blocks: up to 33 rows a pair has a unit where it would have two, from 67 to
      // 99 three where it would have four; otherwise it would have as many.
      EXPECT_EQ(limits.all_slots > 0, rows <= 33) << rows << " rows, " << shape.kinds << " kinds";
      EXPECT_EQ(limits.slots > 0, rows <= 33 || (rows > 66 && rows <= 99))
          << rows << " rows, " << shape.kinds << " kinds";
    }
  }
}

TEST(Choice, LongRowsMayBeSplitWhateverTheirNumber) {
  const Shape shape = shape_of(16, 8192);
  const PlanLimits cut = cut_for(shape, 132, true).limits;
  for (const int rows : {1, 40, 66, 67, 128}) {
    const PlanLimits limits = limits_of(shape, 0, rows);
    EXPECT_EQ(limits.slots, cut.slots) << rows << " rows";
    EXPECT_EQ(limits.all_slots, rows <= 66 ? cut.all_slots : 0) << rows << " rows";
  }
}

TEST(Choice, ALayerWhoseRowsAreOneUnitNeedsNoMergeBesideLongerKinds) {
  Shape shape = shape_of(64, 512);
  shape.kinds = 2;
  shape.compressed[1] = {STEADY_CACHE_FP8, 64, 8192};
  for (const int rows : {1, 8, 64, 128}) {
    const PlanLimits limits = limits_of(shape, 0, rows);
    EXPECT_EQ(std::max(limits.slots, limits.all_slots), 0) << rows << " rows";
    EXPECT_GT(limits_of(shape, 1, rows).slots, 0) << rows << " rows";
  }
}
#endif

}  // namespace
}  // namespace steady::cuda
