// SPDX-License-Identifier: Apache-2.0
// Lengths and slots that no caller should send go in, and memory that faults where nobody may look;
// defined answers come out.
#include <algorithm>
#include <cstring>
#include <limits>

#include "tests/support/engine.hpp"
#include "tests/support/mapped_memory.hpp"

namespace steady::test {
namespace {

constexpr int32_t kMin = std::numeric_limits<int32_t>::min();
constexpr int32_t kMax = std::numeric_limits<int32_t>::max();

CaseSpec step_spec() {
  CaseSpec spec;
  spec.batch = 4;
  spec.queries = 2;
  spec.window = {133, STEADY_CACHE_FP8, 16, Lengths::kPerQuery};
  spec.compressed = {{65, STEADY_CACHE_BF16, 3}};
  return spec;
}

class HostileInput : public OnEveryBackend {};

INSTANTIATE_TEST_SUITE_P(, HostileInput, kEveryBackend, backend_name);

TEST_P(HostileInput, ALengthBelow0IsThatOf0AndOneAboveTheWidthIsTheWidth) {
  HostileCase c(step_spec());
  const auto set_lengths = [&c](int32_t window, int32_t compressed) {
    std::fill_n(c.window_lengths(), 8, window);
    std::fill_n(c.compressed_lengths(), 4, compressed);
  };
  for (const auto& [wild, share] : {std::pair{kMin, 0}, {-1, 0}, {134, 1}, {kMax, 1}}) {
    set_lengths(share * 133, share * 65);
    c.refill_contents(3);
    const Outputs want = run_alone(c, backend());
    EXPECT_TRUE(close_to(want, c.answer()));
    set_lengths(wild, wild);
    c.reset_outputs();
    EXPECT_TRUE(same_bits(run_alone(c, backend()), want)) << "length " << wild;
    EXPECT_TRUE(c.gaps_untouched());
  }
}

TEST_P(HostileInput, ASlotOutsideThePoolIsSkippedLikeAHole) {
  HostileCase c(step_spec());
  std::fill_n(c.window_lengths(), 8, 133);
  std::fill_n(c.compressed_lengths(), 4, 65);
  c.refill_contents(4);
  const int64_t stride = c.layers[0].window.slots_stride;
  const int64_t pool_tokens = c.layers[0].window.page_count * 16;
  const int32_t wild[] = {kMin, -2, static_cast<int32_t>(pool_tokens), kMax, kMin + 1};
  const auto punch = [&](bool with_holes) {
    for (int64_t i = 0; i < 133; i += 7)
      c.window_slots()[2 * stride + i] = with_holes ? -1 : wild[i % 5];
    for (int64_t i = 0; i < 65; i += 3)
      c.compressed_slots()[i] = with_holes ? -1 : (i % 2 == 0 ? kMax : kMin);
  };
  punch(true);
  const Outputs want = run_alone(c, backend());
  EXPECT_TRUE(close_to(want, c.answer()));
  punch(false);
  EXPECT_TRUE(same_bits(run_alone(c, backend()), want));
}

TEST_P(HostileInput, NothingButStraySlotsIsAnEmptyRow) {
  CaseSpec spec = step_spec();
  spec.window.hole_percent = spec.compressed[0].hole_percent = 0;
  spec.window.stray_percent = spec.compressed[0].stray_percent = 100;
  expect_right(HostileCase(spec), backend());
}

TEST_P(HostileInput, EverythingAtOnceInManyCases) {
  for (uint64_t seed = 1; seed < 30; ++seed) {
    CaseSpec spec = step_spec();
    spec.window.wild_lengths = spec.compressed[0].wild_lengths = true;
    spec.window.stray_percent = spec.compressed[0].stray_percent = 30;
    spec.window.hole_percent = 30;
    spec.seed = seed;
    expect_right(HostileCase(spec), backend());
  }
}

TEST_P(HostileInput, APoolOfNoPagesIsEmpty) {
  HostileCase c(step_spec());
  for (steady_pool* pool : {&c.layers[0].window, &c.layers[0].compressed}) {
    pool->pages = nullptr;
    pool->page_count = 0;
  }
  const Outputs outputs = run_alone(c, backend());
  EXPECT_EQ(outputs.out, std::vector<uint16_t>(outputs.out.size(), 0));
}

TEST_P(HostileInput, APageCountBeyondAllMemoryHarmsNoSlotInside) {
  HostileCase c(step_spec());
  for (int64_t i = 0; i < 7 * c.layers[0].window.slots_stride + 133; ++i) {
    int32_t& slot = c.window_slots()[i];
    if (slot < 0 || slot >= c.layers[0].window.page_count * 16) slot = -1;
  }
  c.layers[0].window.page_count = int64_t{1} << 40;
  expect_right(c, backend());
}

// Moves a pool of one token a page to where each token stands at the edge of memory of its own; all
// bytes between them fault, and so do all tokens that no slot may name. `at_end`: the byte behind
// the token's last one faults; otherwise the one before its first.
MappedMemory guard_tokens(const steady_pool_shape& shape, bool at_end, steady_pool& pool) {
  MappedMemory memory(static_cast<size_t>(2 * kGuardBytes * pool.page_count));
  const int64_t token_bytes = steady_page_bytes(shape.format, 1);
  const steady_pool old = pool;
  pool.pages = memory.begin() + (at_end ? kGuardBytes - token_bytes : 0);
  pool.page_stride_bytes = 2 * kGuardBytes;
  for (int64_t slot = 0; slot < pool.page_count; ++slot) {
    std::memcpy(token_data(shape, pool, slot), token_data(shape, old, slot),
                static_cast<size_t>(token_bytes));
    memory.forbid((2 * slot + 1) * kGuardBytes, kGuardBytes);
    if (slot % 2 == 0) memory.forbid(2 * slot * kGuardBytes, kGuardBytes);  // never named
  }
  return memory;
}

TEST(Guards, FaultOnBothSides) {
  const MappedMemory memory(1);
  const volatile uint8_t* const begin = memory.begin();
  const volatile uint8_t* const end = memory.end();
  EXPECT_EQ(begin[0] + end[-1], 0);
  EXPECT_DEATH(begin[-1], "");
  EXPECT_DEATH(end[0], "");
}

TEST_P(HostileInput, NoByteOutsideTheNamedTokensIsRead) {
  SKIP_ON_DEVICES(
      "a device does not see the host's guard pages; see "
      "CudaDevice.ReadsAndWritesWithinArraysOfTheirExactSizeAndOnlyWhatIsNamed");
  for (const steady_cache_format format : {STEADY_CACHE_FP8, STEADY_CACHE_BF16}) {
    for (const bool at_end : {false, true}) {
      CaseSpec spec = step_spec();
      spec.window = {133, format, 1};
      spec.compressed = {{65, format, 1}};
      HostileCase c(spec);
      const Answer answer = c.answer();
      const MappedMemory window = guard_tokens(c.shape().window, at_end, c.layers[0].window);
      const MappedMemory compressed =
          guard_tokens(c.shape().compressed[0], at_end, c.layers[0].compressed);
      EXPECT_TRUE(close_to(run_alone(c, backend()), answer));
    }
  }
}

TEST_P(HostileInput, NoByteOutsideThePoolIsRead) {
  SKIP_ON_DEVICES(
      "a device does not see the host's guard pages; see "
      "CudaDevice.ReadsAndWritesWithinArraysOfTheirExactSizeAndOnlyWhatIsNamed");
  for (const steady_cache_format format : {STEADY_CACHE_FP8, STEADY_CACHE_BF16}) {
    for (const int32_t page_tokens : {1, 2, 53, 64}) {
      for (const bool at_end : {false, true}) {
        CaseSpec spec = step_spec();
        spec.window = {133, format, page_tokens, Lengths::kAbsent};
        HostileCase c(spec);
        steady_pool& pool = c.layers[0].window;
        const auto bytes = static_cast<size_t>((pool.page_count - 1) * pool.page_stride_bytes +
                                               steady_page_bytes(format, page_tokens));
        // The first and the last token are among the named ones.
        Random random(1);
        const int64_t last = pool.page_count * page_tokens - 1;
        c.window_slots()[0] = 0;
        c.window_slots()[1] = static_cast<int32_t>(last);
        fill_token(c.shape().window, pool, 0, random);
        fill_token(c.shape().window, pool, last, random);
        const MappedMemory memory(bytes);
        uint8_t* begin = at_end ? memory.end() - bytes : memory.begin();
        std::memcpy(begin, pool.pages, bytes);
        const Answer answer = c.answer();
        pool.pages = begin;
        EXPECT_TRUE(close_to(run_alone(c, backend()), answer));
      }
    }
  }
}

TEST_P(HostileInput, SlotsPastTheLengthAreNotRead) {
  SKIP_ON_DEVICES(
      "a device does not see the host's guard pages; see "
      "CudaDevice.ReadsAndWritesWithinArraysOfTheirExactSizeAndOnlyWhatIsNamed");
  constexpr int32_t kLength = 37;
  CaseSpec spec = step_spec();
  spec.loose = false;
  HostileCase c(spec);
  std::fill_n(c.window_lengths(), 8, kLength);
  c.refill_contents(5);
  // Behind the slots of each row memory faults.
  constexpr int64_t kStride = 2 * kGuardBytes / static_cast<int64_t>(sizeof(int32_t));
  MappedMemory memory(8 * 2 * kGuardBytes);
  steady_pool& pool = c.layers[0].window;
  auto* const slots = reinterpret_cast<int32_t*>(memory.begin() + kGuardBytes) - kLength;
  for (int64_t row = 0; row < 8; ++row) {
    std::copy_n(pool.slots + row * 133, kLength, slots + row * kStride);
    memory.forbid((2 * row + 1) * kGuardBytes, kGuardBytes);
  }
  const Answer answer = c.answer();
  pool.slots = slots;
  pool.slots_stride = kStride;
  EXPECT_TRUE(close_to(run_alone(c, backend()), answer));
}

// `count` elements that end (or begin) where the next (or last) byte faults.
template <typename T>
T* guarded_copy(const MappedMemory& memory, const T* from, int64_t count, bool at_end) {
  T* to =
      at_end ? reinterpret_cast<T*>(memory.end()) - count : reinterpret_cast<T*>(memory.begin());
  if (from != nullptr) std::copy_n(from, count, to);
  return to;
}

TEST_P(HostileInput, NoArrayIsReadOrWrittenBeyondItsEnds) {
  SKIP_ON_DEVICES(
      "a device does not see the host's guard pages; see "
      "CudaDevice.ReadsAndWritesWithinArraysOfTheirExactSizeAndOnlyWhatIsNamed");
  for (const bool at_end : {false, true}) {
    CaseSpec spec = step_spec();
    spec.loose = false;
    spec.heads = 5;
    HostileCase c(spec);
    const Answer answer = c.answer();
    constexpr size_t kRoom = kGuardBytes;
    const MappedMemory q(kRoom), out(kRoom), lse(kRoom), sink(kRoom), slots(kRoom), lengths(kRoom);
    steady_layer& layer = c.layers[0];
    constexpr int64_t kVectors = 4 * 2 * 5;
    layer.q = guarded_copy(q, layer.q, kVectors * STEADY_HEAD_DIM, at_end);
    layer.out = guarded_copy<uint16_t>(out, nullptr, kVectors * STEADY_HEAD_DIM, at_end);
    layer.lse = guarded_copy<float>(lse, nullptr, kVectors, at_end);
    layer.sink = guarded_copy(sink, layer.sink, 5, at_end);
    layer.window.slots = guarded_copy(slots, layer.window.slots, 8 * 133, at_end);
    c.step.window.values = guarded_copy(lengths, c.step.window.values, 8, at_end);
    EXPECT_TRUE(close_to(run_alone(c, backend()), answer));
  }
}

TEST_P(HostileInput, AWorkspaceIsUsedWithinItsBytes) {
  SKIP_ON_DEVICES(
      "a device does not see the host's guard pages; see "
      "CudaDevice.ReadsAndWritesWithinArraysOfTheirExactSizeAndOnlyWhatIsNamed");
  const HostileCase c(step_spec());
  const Engine engine(c.shape(), backend(), 3);
  const size_t bytes = steady_workspace_bytes(engine.get());
  const size_t padded = (bytes + 255) / 256 * 256;
  const MappedMemory memory(padded);
  std::memset(memory.begin(), 0xFF, static_cast<size_t>(memory.end() - memory.begin()));
  uint8_t* const begin = memory.end() - padded;
  const steady_workspace workspace = {begin, bytes};
  ASSERT_TRUE(ok(steady_plan(engine.get(), workspace, &c.step, nullptr)));
  ASSERT_TRUE(ok(steady_decode(engine.get(), workspace, &c.step, &c.layers[0], nullptr)));
  EXPECT_TRUE(close_to(c.outputs(), c.answer()));
  for (const uint8_t* byte = begin + bytes; byte < memory.end(); ++byte) EXPECT_EQ(*byte, 0xFF);
}

}  // namespace
}  // namespace steady::test
