// SPDX-License-Identifier: Apache-2.0
// Recorded calls, true and lying, in; their shapes and slots, or a refusal, out.
#include "support/recorded_call.hpp"

#include <gmock/gmock.h>

#include <functional>
#include <limits>

#include "tests/cli/safetensors_bytes.hpp"
#include "tests/cli/temporary_file.hpp"

namespace steady::test {
namespace {

using support::FileError;
using support::RecordedCall;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A file before it is written: 2 requests, 1 query, 3 heads; 4 slots in pages of 2; 5 in pages
/// of 1.
struct Draft {
  std::map<std::string, TensorBytes> tensors;
  std::map<std::string, std::string> metadata;
};

template <class T>
TensorBytes filled(const std::string& dtype, const std::vector<int64_t>& shape, T value) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return tensor_bytes<T>(dtype, shape, std::vector<T>(count, value));
}

Draft true_draft() {
  Draft draft;
  const int64_t page_of_two = steady_page_bytes(STEADY_CACHE_FP8, 2);
  const int64_t page_of_one = steady_page_bytes(STEADY_CACHE_FP8, 1);
  draft.tensors = {
      {"q", filled<uint16_t>("BF16", {2, 1, 3, STEADY_HEAD_DIM}, 0x3f80)},
      {"swa_cache", filled<uint8_t>("U8", {3, page_of_two + 5}, 1)},
      {"swa_indices", tensor_bytes<int32_t>("I32", {2, 1, 4}, {5, -1, 0, 6, 0, -2, 1, 99})},
      {"swa_lengths", tensor_bytes<int32_t>("I32", {2}, {4, 3})},
      {"extra_cache", filled<uint8_t>("U8", {2, page_of_one}, 1)},
      {"extra_indices", filled<int32_t>("I32", {2, 1, 5}, 1)},
      {"attn_sink", tensor_bytes<float>("F32", {3}, {0, kInfinity, -kInfinity})},
      {"out_exact", filled<float>("F32", {2, 1, 3, STEADY_HEAD_DIM}, 0)},
      {"out_flashmla", filled<uint16_t>("BF16", {2, 1, 3, STEADY_HEAD_DIM}, 0)},
      {"lse_exact", filled<float>("F32", {2, 1, 3}, -kInfinity)},
      {"lse_flashmla", filled<float>("F32", {2, 1, 3}, kInfinity)},
  };
  draft.metadata = {
      {"block_size", "2"}, {"extra_block_size", "1"}, {"softmax_scale", "0.0441941738"}};
  return draft;
}

RecordedCall load(const Draft& draft) {
  const TemporaryFile written(safetensors_bytes(draft.tensors, draft.metadata));
  support::SafetensorsFile file(written.path());
  return support::load_recorded_call(file);
}

/// Of the true draft after `lie` has been at it; "" where it is accepted all the same.
std::string refusal(const std::function<void(Draft&)>& lie) {
  Draft draft = true_draft();
  lie(draft);
  try {
    load(draft);
    return "";
  } catch (const FileError& error) {
    return error.what();
  }
}

std::string refusal_with(const std::string& name, const TensorBytes& tensor) {
  return refusal([&](Draft& draft) { draft.tensors[name] = tensor; });
}

std::string refusal_without(const std::string& name) {
  return refusal([&](Draft& draft) { draft.tensors.erase(name); });
}

std::string refusal_with_metadata(const std::string& name, const std::string& value) {
  return refusal([&](Draft& draft) { draft.metadata[name] = value; });
}

TEST(RecordedCalls, DeriveTheShape) {
  const RecordedCall call = load(true_draft());
  EXPECT_EQ(call.batch(), 2);
  EXPECT_EQ(call.shape.queries, 1);
  EXPECT_EQ(call.shape.heads, 3);
  EXPECT_EQ(call.shape.kinds, 1);
  EXPECT_FLOAT_EQ(call.shape.softmax_scale, 0.0441941738f);
  EXPECT_EQ(call.shape.window.page_tokens, 2);
  EXPECT_EQ(call.shape.window.max_tokens, 4);
  EXPECT_EQ(call.shape.compressed[0].max_tokens, 5);
  EXPECT_EQ(call.window.page_count, 3);
  EXPECT_EQ(call.window.page_stride_bytes, steady_page_bytes(STEADY_CACHE_FP8, 2) + 5);
  EXPECT_EQ(call.window.capacity(), 6);
}

TEST(RecordedCalls, WithoutLengthsMeanTheFullWidth) {
  EXPECT_THAT(load(true_draft()).compressed->lengths, ElementsAre(5, 5));
}

TEST(RecordedCalls, MarkAnEmptyRowAsTheLibraryDoes) {
  EXPECT_THAT(load(true_draft()).lse_recorded, Each(-kInfinity));
}

TEST(RecordedCalls, MayLackACompressedPoolASinkAndLengths) {
  Draft draft = true_draft();
  for (const char* name : {"extra_cache", "extra_indices", "attn_sink", "swa_lengths"})
    draft.tensors.erase(name);
  draft.metadata.erase("extra_block_size");
  const RecordedCall call = load(draft);
  EXPECT_FALSE(call.compressed.has_value());
  EXPECT_EQ(call.shape.compressed[0].max_tokens, 0);
  EXPECT_TRUE(call.sinks.empty());
  EXPECT_THAT(call.window.lengths, ElementsAre(4, 4));
}

TEST(RecordedCalls, CountWhatTheirSlotsName) {
  const RecordedCall call = load(true_draft());
  const auto census =
      support::count_slots(call.window, call.shape.queries, call.window.slots, call.window.lengths);
  EXPECT_EQ(census.valid, 4);
  EXPECT_EQ(census.none, 1);
  EXPECT_EQ(census.stray, 2);  // 6 and -2; 99 stands behind the length
  EXPECT_EQ(census.past_length, 1);
  EXPECT_THAT(census.read, ElementsAre(0, 1, 5));
}

TEST(RecordedCalls, AreRefusedWithoutAnyTensorThatTheyNeed) {
  for (const char* name : {"q", "swa_cache", "swa_indices", "out_exact", "out_flashmla",
                           "lse_exact", "lse_flashmla", "extra_cache", "extra_indices"}) {
    EXPECT_THAT(refusal_without(name), HasSubstr(std::string("tensor ") + name + " is missing"));
  }
}

TEST(RecordedCalls, AreRefusedWithATensorThatNobodyKnows) {
  EXPECT_THAT(refusal_with("attn_sinks", filled<float>("F32", {3}, 0)),
              HasSubstr("it holds a tensor \"attn_sinks\""));
}

TEST(RecordedCalls, AreRefusedWhereQueriesAreBeyondTheLimits) {
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{
           {0, 1, 3, STEADY_HEAD_DIM},
           {STEADY_MAX_BATCH + 1, 1, 1, STEADY_HEAD_DIM},
           {2, STEADY_MAX_QUERIES + 1, 3, STEADY_HEAD_DIM},
           {2, 1, STEADY_MAX_HEADS + 1, STEADY_HEAD_DIM},
           {2, 1, 3, STEADY_HEAD_DIM - 1},
           {2, 3, STEADY_HEAD_DIM},
       }) {
    EXPECT_THAT(refusal_with("q", filled<uint16_t>("BF16", shape, 0)),
                HasSubstr("must be BF16 [1 to 8192, 1 to 8, 1 to 128, 512]"));
  }
  EXPECT_THAT(refusal_with("q", filled<uint16_t>("F16", {2, 1, 3, STEADY_HEAD_DIM}, 0)),
              HasSubstr("tensor q is F16 [2, 1, 3, 512], but must be BF16"));
}

TEST(RecordedCalls, AreRefusedWhereShapesContradictEachOther) {
  EXPECT_THAT(refusal_with("swa_indices", filled<int32_t>("I32", {3, 1, 4}, 0)),
              HasSubstr("tensor swa_indices is I32 [3, 1, 4], but must be I32 [2, 1, 1 to 65536]"));
  EXPECT_THAT(refusal_with("extra_indices", filled<int32_t>("I32", {2, 1, 0}, 0)),
              HasSubstr("tensor extra_indices"));
  EXPECT_THAT(refusal_with("swa_lengths", filled<int32_t>("I32", {2, 1}, 0)),
              HasSubstr("tensor swa_lengths is I32 [2, 1], but must be I32 [2]"));
  EXPECT_THAT(refusal_with("attn_sink", filled<float>("F32", {4}, 0)),
              HasSubstr("tensor attn_sink is F32 [4], but must be F32 [3]"));
  EXPECT_THAT(refusal_with("out_exact", filled<float>("F32", {2, 1, 2, STEADY_HEAD_DIM}, 0)),
              HasSubstr("tensor out_exact"));
  EXPECT_THAT(refusal_with("lse_flashmla", filled<float>("F32", {2, 1, 4}, 0)),
              HasSubstr("tensor lse_flashmla"));
}

TEST(RecordedCalls, AreRefusedWherePagesCannotHoldTheirTokens) {
  const int64_t bytes = steady_page_bytes(STEADY_CACHE_FP8, 2);
  EXPECT_EQ(refusal_with("swa_cache", filled<uint8_t>("U8", {3, bytes}, 0)), "");
  EXPECT_THAT(refusal_with("swa_cache", filled<uint8_t>("U8", {3, bytes - 1}, 0)),
              HasSubstr("but 2 tokens need " + std::to_string(bytes)));
  EXPECT_THAT(refusal_with_metadata("block_size", "3"), HasSubstr("but 3 tokens need"));
  EXPECT_THAT(refusal_with_metadata("block_size", "2147483647"), HasSubstr("tokens need"));
  EXPECT_THAT(refusal_with("swa_cache", filled<uint8_t>("U8", {0, bytes}, 0)),
              HasSubstr("must be U8 [1 or more, 1 or more]"));
}

TEST(RecordedCalls, AreRefusedWithLengthsOutsideTheWidth) {
  for (const int32_t length : {-1, 5, INT32_MAX, INT32_MIN}) {
    EXPECT_THAT(refusal_with("swa_lengths", tensor_bytes<int32_t>("I32", {2}, {1, length})),
                HasSubstr("swa_lengths holds " + std::to_string(length) +
                          ", but a length is 0 to the width, 4"));
  }
}

TEST(RecordedCalls, AreRefusedWithASinkThatIsNaN) {
  EXPECT_THAT(refusal_with("attn_sink", filled<float>("F32", {3}, NAN)),
              HasSubstr("attn_sink holds a NaN"));
}

TEST(RecordedCalls, AreRefusedWithMetadataThatAreNoNumbers) {
  for (const char* value : {"", "x", "2x", " 2", "2.0", "99999999999999999999"})
    EXPECT_THAT(refusal_with_metadata("block_size", value), HasSubstr("no number it can be"))
        << value;
  for (const char* value : {"0", "-1"})
    EXPECT_THAT(refusal_with_metadata("block_size", value), HasSubstr("1 token or more")) << value;
  for (const char* value : {"inf", "nan", "1e39"})
    EXPECT_THAT(refusal_with_metadata("softmax_scale", value), HasSubstr("not finite")) << value;
  EXPECT_THAT(refusal([](Draft& draft) { draft.metadata.erase("softmax_scale"); }),
              HasSubstr("metadata lacks softmax_scale"));
}

TEST(RecordedCalls, OfTheRepositoryAllLoad) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(STEADY_RECORDED_CALLS)) {
    if (entry.path().extension() != ".safetensors") continue;
    support::SafetensorsFile file(entry.path());
    EXPECT_NO_THROW(support::load_recorded_call(file)) << entry.path();
    ++count;
  }
  EXPECT_EQ(count, 7);
}

}  // namespace
}  // namespace steady::test
