// SPDX-License-Identifier: Apache-2.0
// Page sizes and tokens go in; the bytes that hold them are where vLLM and FlashMLA have them.
#include <gtest/gtest.h>

#include <limits>

#include "steady/cache_format.h"

namespace steady::test {
namespace {

int64_t padded_to_rows(int64_t bytes) {
  constexpr int64_t kRow = STEADY_FP8_DATA_BYTES;
  return (bytes + kRow - 1) / kRow * kRow;
}

TEST(Layout, AnFp8TokenIs448CodesAnd64Bf16And7ScalesAndAPad) {
  EXPECT_EQ(STEADY_NOPE_DIM, 448);
  EXPECT_EQ(STEADY_ROPE_DIM, 64);
  EXPECT_EQ(STEADY_HEAD_DIM, STEADY_NOPE_DIM + STEADY_ROPE_DIM);
  EXPECT_EQ(STEADY_FP8_DATA_BYTES, 448 + 2 * 64);
  EXPECT_EQ(STEADY_FP8_SCALES, 7);
  EXPECT_EQ(STEADY_FP8_SCALES * STEADY_FP8_SCALE_GROUP, STEADY_NOPE_DIM);
  EXPECT_EQ(STEADY_FP8_TOKEN_BYTES, 584);
  EXPECT_EQ(STEADY_FP8_TOKEN_BYTES, STEADY_FP8_DATA_BYTES + STEADY_FP8_SCALE_BYTES);
  EXPECT_EQ(STEADY_BF16_TOKEN_BYTES, 2 * STEADY_HEAD_DIM);
}

TEST(Layout, PagesHaveTheBytesOfVllmAndFlashMla) {
  const struct {
    int32_t tokens;
    int64_t bytes, stride;
  } pages[] = {{2, 1168, 1728}, {64, 37376, 37440}, {128, 74752, 74880}, {256, 149504, 149760}};
  for (const auto& page : pages) {
    EXPECT_EQ(steady_page_bytes(STEADY_CACHE_FP8, page.tokens), page.bytes);
    EXPECT_EQ(padded_to_rows(page.bytes), page.stride);
  }
  EXPECT_EQ(steady_page_bytes(STEADY_CACHE_BF16, 64), 65536);
}

TEST(Layout, DataOfAllTokensComesBeforeTheScales) {
  EXPECT_EQ(steady_data_offset(STEADY_CACHE_FP8, 0), 0);
  EXPECT_EQ(steady_data_offset(STEADY_CACHE_FP8, 63), 36288);
  EXPECT_EQ(steady_fp8_scales_offset(64, 0), 36864);
  EXPECT_EQ(steady_fp8_scales_offset(64, 1), 36872);
  EXPECT_EQ(steady_fp8_scales_offset(64, 63) + STEADY_FP8_SCALE_BYTES,
            steady_page_bytes(STEADY_CACHE_FP8, 64));
  EXPECT_EQ(steady_data_offset(STEADY_CACHE_BF16, 63) + STEADY_BF16_TOKEN_BYTES,
            steady_page_bytes(STEADY_CACHE_BF16, 64));
}

TEST(Layout, OffsetsAreOf64Bits) {
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(steady_page_bytes(STEADY_CACHE_FP8, kMax), int64_t{1'254'130'449'848});
  EXPECT_EQ(steady_data_offset(STEADY_CACHE_FP8, kMax), int64_t{1'236'950'580'672});
  EXPECT_EQ(steady_fp8_scales_offset(kMax, kMax), int64_t{1'254'130'449'848});
  EXPECT_EQ(steady_page_bytes(STEADY_CACHE_BF16, kMax), int64_t{2'199'023'254'528});
}

}  // namespace
}  // namespace steady::test
