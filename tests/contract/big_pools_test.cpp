// SPDX-License-Identifier: Apache-2.0
// Pools, queries, outputs and slots that span more than 2 and 4 GiB of (mostly untouched) address
// space go in; the right bytes are found.
#include <algorithm>

#include "tests/support/engine.hpp"
#include "tests/support/mapped_memory.hpp"

namespace steady::test {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// One row for each of the slots, of a window pool that lies in `memory`, together with the next.
void expect_right_with(steady_backend backend, const steady_pool_shape& window,
                       const MappedMemory& memory, int64_t stride_bytes, int64_t page_count,
                       const std::vector<int64_t>& slots) {
  CaseSpec spec;
  spec.batch = static_cast<int32_t>(slots.size());
  spec.window = {2, window.format, 1, Lengths::kAbsent};
  spec.window.hole_percent = 0;
  HostileCase c(spec);
  steady_shape shape = c.shape();
  shape.window = window;
  steady_pool& pool = c.layers[0].window;
  pool.pages = memory.begin();
  pool.page_stride_bytes = stride_bytes;
  pool.page_count = page_count;
  Random random(5);
  for (size_t row = 0; row < slots.size(); ++row) {
    int32_t* const of_row = c.window_slots() + static_cast<int64_t>(row) * pool.slots_stride;
    of_row[0] = static_cast<int32_t>(slots[row]);
    of_row[1] = static_cast<int32_t>(slots[(row + 1) % slots.size()]);
    fill_token(window, pool, slots[row], random);
  }
  const Engine engine(shape, backend);
  Caller(engine).run(c);
  EXPECT_TRUE(close_to(c.outputs(), reference_answer(shape, c.step, c.layers[0])));
  EXPECT_TRUE(c.gaps_untouched());
}

class BigPools : public OnEveryBackend {};

INSTANTIATE_TEST_SUITE_P(, BigPools, kEveryBackend, backend_name);

TEST_P(BigPools, OfManyPagesBeyond4GiB) {
  for (const steady_cache_format format : {STEADY_CACHE_FP8, STEADY_CACHE_BF16}) {
    constexpr int64_t kPageTokens = 64;
    const int64_t stride = steady_page_bytes(format, kPageTokens) + 64;
    const int64_t page_count = 5 * kGiB / stride;
    const MappedMemory memory(static_cast<size_t>(page_count * stride), is_device());
    std::vector<int64_t> slots = {0, page_count * kPageTokens - 1};
    for (const int64_t border : {2 * kGiB, 4 * kGiB}) {
      // The page that lies across the border, its first and last token, and its neighbours'.
      const int64_t page = border / stride;
      for (const int64_t token : {-1, 0, 63, 64}) slots.push_back(page * kPageTokens + token);
    }
    expect_right_with(backend(), {format, kPageTokens, 2}, memory, stride, page_count, slots);
  }
}

TEST_P(BigPools, OfFewPagesFarApart) {
  const int64_t stride = 2 * kGiB + 2001;
  const MappedMemory memory(static_cast<size_t>(3 * stride), is_device());
  expect_right_with(backend(), {STEADY_CACHE_FP8, 2, 2}, memory, stride, 3, {0, 1, 2, 3, 4, 5});
}

TEST_P(BigPools, OfOneHugePage) {
  // Scales lie behind the data of all tokens.
  constexpr int32_t kPageTokens = 9'000'000;
  const int64_t bytes = steady_page_bytes(STEADY_CACHE_FP8, kPageTokens);
  ASSERT_GT(bytes, 4 * kGiB);
  const MappedMemory memory(static_cast<size_t>(bytes), is_device());
  expect_right_with(backend(), {STEADY_CACHE_FP8, kPageTokens, 2}, memory, bytes, 1,
                    {0, 1, 3'728'270, 3'728'271, 7'456'540, 7'456'541, kPageTokens - 1});
}

TEST_P(BigPools, WithQueriesOutputsAndSlotsAsFarApart) {
  CaseSpec spec;
  spec.batch = 3;
  spec.window = {70, STEADY_CACHE_FP8, 16, Lengths::kAbsent};
  spec.loose = false;
  HostileCase c(spec);
  const Answer answer = c.answer();
  const int64_t stride = 2 * kGiB + 512;  // elements: more than 2^32 bytes
  const int64_t vectors = spec.heads * STEADY_HEAD_DIM;
  const auto span = static_cast<size_t>(2 * stride);
  const MappedMemory q_memory(2 * (span + vectors), is_device()),
      out_memory(2 * (span + vectors), is_device()), slots_memory(4 * (span + 70), is_device()),
      lse_memory(4 * (span + 3), is_device());
  steady_layer& layer = c.layers[0];
  auto* const q = reinterpret_cast<uint16_t*>(q_memory.begin());
  auto* const slots = reinterpret_cast<int32_t*>(slots_memory.begin());
  for (int64_t row = 0; row < 3; ++row) {
    std::copy_n(layer.q + row * vectors, vectors, q + row * stride);
    std::copy_n(layer.window.slots + row * 70, 70, slots + row * stride);
  }
  layer.q = q;
  layer.out = reinterpret_cast<uint16_t*>(out_memory.begin());
  layer.lse = reinterpret_cast<float*>(lse_memory.begin());
  layer.q_strides = layer.out_strides = {stride, vectors, STEADY_HEAD_DIM};
  layer.lse_strides = {stride, spec.heads, 1};
  layer.window.slots = slots;
  layer.window.slots_stride = stride;
  EXPECT_TRUE(close_to(run_alone(c, backend()), answer));
}

}  // namespace
}  // namespace steady::test
