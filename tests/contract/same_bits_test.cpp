// SPDX-License-Identifier: Apache-2.0
// The same rows go in, in many surroundings; the same bits come out.
#include <algorithm>
#include <numeric>

#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

// Rows from empty to long enough to be divided, of all kinds of lengths.
CaseSpec mixed_spec() {
  CaseSpec spec;
  spec.heads = 3;
  spec.queries = 2;
  spec.batch = 7;
  spec.window = {133, STEADY_CACHE_FP8, 16, Lengths::kPerQuery};
  spec.compressed = {{2500, STEADY_CACHE_FP8, 53}};
  return spec;
}

// So many requests that a device does them in another way than one.
CaseSpec many_spec(int32_t heads, int32_t batch, ScopeSpec window, ScopeSpec compressed) {
  CaseSpec spec;
  spec.heads = heads;
  spec.batch = batch;
  spec.window = window;
  spec.compressed = {compressed};
  return spec;
}

// Rows begin … begin + queries of each request.
Outputs request_of(const Outputs& all, const HostileCase& c, int64_t request) {
  return rows_of(all, request * c.spec().queries, c.spec().queries);
}

class SameBits : public OnEveryBackend {
 protected:
  // The requests of `picked` answer as those of `all` that they come from.
  void expect_same(const HostileCase& c, const Outputs& all,
                   const std::vector<int64_t>& requests) const {
    const HostileCase picked = c.pick(requests);
    const Outputs outputs = run_alone(picked, backend());
    EXPECT_TRUE(picked.gaps_untouched());
    for (size_t i = 0; i < requests.size(); ++i) {
      if (requests[i] < 0) continue;
      EXPECT_TRUE(same_bits(request_of(outputs, c, static_cast<int64_t>(i)),
                            request_of(all, c, requests[i])))
          << "request " << requests[i] << " as number " << i << " of " << requests.size();
    }
  }

  // An engine of another shape answers the same.
  void expect_same_in(const steady_shape& shape, const HostileCase& c, const Outputs& want) const {
    const Engine engine(shape, backend());
    Caller(engine).run(c);
    EXPECT_TRUE(same_bits(c.outputs(), want));
    EXPECT_TRUE(c.gaps_untouched());
  }
};

INSTANTIATE_TEST_SUITE_P(, SameBits, kEveryBackend, backend_name);

TEST_P(SameBits, OnEveryRun) {
  const HostileCase c(mixed_spec());
  const Outputs first = run_alone(c, backend());
  EXPECT_TRUE(close_to(first, c.answer()));
  for (int run = 0; run < 3; ++run) {
    c.reset_outputs();
    EXPECT_TRUE(same_bits(run_alone(c, backend()), first));
  }
}

TEST_P(SameBits, EagerAndReplayed) {
  const HostileCase c(mixed_spec());
  const Engine engine(c.shape(), backend());
  const Caller caller(engine);
  caller.run(c);
  const Outputs eager = c.outputs();
  const Graph graph = caller.capture(c);
  for (int replay = 0; replay < 3; ++replay) {
    c.reset_outputs();
    caller.replay(graph);
    EXPECT_TRUE(same_bits(c.outputs(), eager));
  }
}

// A device does more heads together where there are more rows.
TEST_P(SameBits, AloneAndAmongManyWithManyHeads) {
  for (const int32_t heads : {33, 64, 128}) {
    const HostileCase c(
        many_spec(heads, 140, {20, STEADY_CACHE_FP8, 16}, {21, STEADY_CACHE_FP8, 53}));
    expect_same(c, run_alone(c, backend()), {17});
  }
}

// Two groups of heads may share tokens.
TEST_P(SameBits, AloneAndAmongManyOfLongerRowsWithManyHeads) {
  const HostileCase c(many_spec(70, 70, {133, STEADY_CACHE_FP8, 16}, {130, STEADY_CACHE_FP8, 53}));
  expect_same(c, run_alone(c, backend()), {17});
}

// And of several units, which a GPU splits between parts of its plan.
TEST_P(SameBits, AloneAndAmongManyOfSeveralUnitsWithManyHeads) {
  const HostileCase c(many_spec(65, 34, {133, STEADY_CACHE_FP8, 16}, {2300, STEADY_CACHE_FP8, 53}));
  expect_same(c, run_alone(c, backend()), {17});
}

// And for few heads other kernels where rows are long.
TEST_P(SameBits, AloneAndAmongManyOfLongerRowsWithFewHeads) {
  const HostileCase c(many_spec(16, 140, {20, STEADY_CACHE_FP8, 16}, {300, STEADY_CACHE_FP8, 53}));
  expect_same(c, run_alone(c, backend()), {17});
}

// A GPU may cut such rows in two, and split them where they are few or do not come out even.
TEST_P(SameBits, OfLongRowsWithFewHeadsInBatchesThatAreSplitOrNot) {
  const HostileCase c(many_spec(8, 100, {128, STEADY_CACHE_FP8, 64}, {1024, STEADY_CACHE_FP8, 64}));
  const Outputs all = run_alone(c, backend());
  for (const size_t size : {1, 33, 34, 67}) {
    std::vector<int64_t> requests(size);
    std::iota(requests.begin(), requests.end(), 17);
    expect_same(c, all, requests);
  }
}

TEST_P(SameBits, AloneAndInABatch) {
  const HostileCase c(mixed_spec());
  const Outputs all = run_alone(c, backend());
  for (int64_t request = 0; request < c.spec().batch; ++request) expect_same(c, all, {request});
}

TEST_P(SameBits, InABatchOfAnySize) {
  const HostileCase c(mixed_spec());
  const Outputs all = run_alone(c, backend());
  for (int32_t size = 2; size < 7; ++size) {
    std::vector<int64_t> requests(static_cast<size_t>(size));
    std::iota(requests.begin(), requests.end(), 7 - size);
    expect_same(c, all, requests);
  }
  expect_same(c, all, {3, 3, 3, 3, 5, 5, 0, 1, 2, 6, 4, 4, 4, 4, 4, 4, 4});
  std::vector<int64_t> many(40);  // so many rows that a GPU may do them in another way
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<int64_t>(i * 3 % 7);
  expect_same(c, all, many);
}

TEST_P(SameBits, InAnyOrder) {
  const HostileCase c(mixed_spec());
  const Outputs all = run_alone(c, backend());
  Random random(3);
  std::vector<int64_t> requests = {0, 1, 2, 3, 4, 5, 6};
  for (int shuffle = 0; shuffle < 4; ++shuffle) {
    for (int64_t i = 6; i > 0; --i)
      std::swap(requests[static_cast<size_t>(i)],
                requests[static_cast<size_t>(random.below(i + 1))]);
    expect_same(c, all, requests);
  }
}

TEST_P(SameBits, InALargerBucketWhoseExtraRowsAreEmpty) {
  const HostileCase c(mixed_spec());
  const Outputs all = run_alone(c, backend());
  expect_same(c, all, {0, 1, 2, 3, 4, 5, 6, -1});
  expect_same(c, all, {-1, 2, -1, -1, 5, -1, -1, -1, 6, -1, -1, -1, -1, -1, -1, -1});
  expect_same(c, all, {-1, -1, -1, -1, -1, -1, -1, -1, -1, 4});
}

TEST_P(SameBits, InAnEngineForMoreRequests) {
  const HostileCase c(mixed_spec());
  const Outputs exact = run_alone(c, backend());
  c.reset_outputs();
  steady_shape shape = c.shape();
  shape.max_batch = 300;
  expect_same_in(shape, c, exact);
}

TEST_P(SameBits, WhateverTheWidthBeyondTheLengths) {
  CaseSpec spec = mixed_spec();
  spec.window.width = 1000;
  spec.window.longest = 133;
  spec.compressed[0].width = 5000;
  spec.compressed[0].longest = 2500;
  const HostileCase c(spec);
  const Outputs wide = run_alone(c, backend());
  c.reset_outputs();
  steady_shape shape = c.shape();
  shape.window.max_tokens = 133;
  shape.compressed[0].max_tokens = 2500;
  expect_same_in(shape, c, wide);
}

TEST_P(SameBits, InALayerOfAnyKind) {
  HostileCase c(mixed_spec());
  const Outputs of_kind_0 = run_alone(c, backend());
  c.reset_outputs();
  steady_shape shape = c.shape();
  shape.kinds = 3;
  shape.compressed[2] = shape.compressed[0];
  shape.compressed[0] = {STEADY_CACHE_BF16, 2, 77};
  c.step.compressed[2] = c.step.compressed[0];
  c.step.compressed[0] = {};
  c.layers[0].kind = 2;
  expect_same_in(shape, c, of_kind_0);
}

TEST_P(SameBits, AsOneOfManyQueriesAndAsARequestOfItsOwn) {
  CaseSpec spec = mixed_spec();
  spec.compressed[0].lengths = Lengths::kPerQuery;
  spec.loose = false;
  HostileCase c(spec);
  const Outputs of_queries = run_alone(c, backend());
  c.reset_outputs();
  steady_shape shape = c.shape();
  shape.queries = 1;
  shape.max_batch = c.step.batch *= c.shape().queries;
  expect_same_in(shape, c, of_queries);
}

TEST_P(SameBits, WhereverTheTokensLie) {
  HostileCase c(mixed_spec());
  const Outputs outputs = run_alone(c, backend());
  c.reset_outputs();
  // Backwards into pages of another size.
  steady_shape shape = c.shape();
  shape.window.page_tokens = 69;
  const steady_pool old_pool = c.layers[0].window;
  steady_pool& pool = c.layers[0].window;
  const int64_t tokens = old_pool.page_count * c.shape().window.page_tokens;
  pool.page_count = tokens / 69 + 1;
  pool.page_stride_bytes = steady_page_bytes(STEADY_CACHE_FP8, 69) + 5;
  const OddBuffer<uint8_t> pages(pool.page_count * pool.page_stride_bytes);
  pool.pages = pages.data();
  for (int64_t slot = 0; slot < tokens; ++slot) {
    const int64_t moved = tokens - 1 - slot;
    std::copy_n(token_data(c.shape().window, old_pool, slot), STEADY_FP8_DATA_BYTES,
                token_data(shape.window, pool, moved));
    std::copy_n(token_scales(c.shape().window, old_pool, slot), STEADY_FP8_SCALE_BYTES,
                token_scales(shape.window, pool, moved));
  }
  const int64_t rows = int64_t{c.spec().batch} * c.spec().queries;
  for (int64_t i = 0; i < (rows - 1) * pool.slots_stride + c.spec().window.width; ++i) {
    int32_t& slot = c.window_slots()[i];
    if (slot >= 0 && slot < tokens) slot = static_cast<int32_t>(tokens - 1 - slot);
  }
  expect_same_in(shape, c, outputs);
}

}  // namespace
}  // namespace steady::test
