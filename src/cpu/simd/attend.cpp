// SPDX-License-Identifier: Apache-2.0
// The fast attend: a row's queries and a unit of cached tokens in, a partial out. Tokens are
// de-quantised a tile at a time into scratch that fits the L2 cache; two small matrix products and
// an online softmax use the tile up. Lanes run along the 512 values of a vector, in both products,
// so any number of heads is done without padding. Compiled once for each instruction set; Highway
// picks one at run time.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/kernels.hpp"
#include "cpu/simd/scratch.hpp"
#include "numeric/bf16.hpp"
#include "numeric/e4m3.hpp"
#include "numeric/ue8m0.hpp"

// NOLINTBEGIN
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/simd/attend.cpp"
// Vectors of unknown length cannot stand in arrays; such machines run the 128-bit code.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include <hwy/foreach_target.h>
// NOLINTEND
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace steady::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using FloatVec = hn::Vec<Floats>;
constexpr Floats kFloats;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(kFloats));

// A block of the products: heads × tokens, or heads × vectors of values, whose sums stay in
// registers.
constexpr int kBlockHeads = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64 ? 6 : 3;
constexpr int kBlockTokens = 4;
constexpr int kBlockVectors = 4;

/// kLanes e4m3 bytes as floats, 2^120 too small (see float_from_e4m3); NaN bytes come out as ±480.
HWY_INLINE FloatVec load_e4m3_bits(const uint8_t* bytes) {
  const hn::RebindToSigned<Floats> ints;
  const hn::Rebind<int8_t, Floats> narrow;
  const auto wide = hn::PromoteTo(ints, hn::LoadU(narrow, reinterpret_cast<const int8_t*>(bytes)));
  const auto sign_and_magnitude = hn::Set(ints, static_cast<int32_t>(0x87f00000));
  return hn::BitCast(kFloats, hn::And(hn::ShiftLeft<20>(wide), sign_and_magnitude));
}

/// Loaded as bytes, because the address may be odd.
HWY_INLINE FloatVec load_bf16(const uint8_t* bytes) {
  const hn::RebindToUnsigned<Floats> ints;
  const hn::Rebind<uint16_t, Floats> narrow;
  const hn::Repartition<uint8_t, decltype(narrow)> raw;
  const auto bits = hn::BitCast(narrow, hn::LoadU(raw, bytes));
  return hn::BitCast(kFloats, hn::ShiftLeft<16>(hn::PromoteTo(ints, bits)));
}

HWY_INLINE void convert_bf16(const uint8_t* bytes, int count, float* values) {
  for (int d = 0; d < count; d += kLanes) hn::Store(load_bf16(bytes + 2 * d), kFloats, values + d);
}

HWY_INLINE bool has_e4m3_nan(const uint8_t* bytes) {
  const hn::CappedTag<uint8_t, 64> tag;
  auto largest = hn::Zero(tag);
  const auto magnitude = hn::Set(tag, uint8_t{0x7f});
  for (size_t d = 0; d < STEADY_NOPE_DIM; d += hn::Lanes(tag)) {
    largest = hn::Max(largest, hn::And(hn::LoadU(tag, bytes + d), magnitude));
  }
  return !hn::AllFalse(tag, hn::Eq(largest, hn::Set(tag, kE4m3Nan)));
}

HWY_INLINE void dequantise_fp8(const Token& token, float* values) {
  // Beyond this byte 2^120 times the scale leaves float's range.
  constexpr uint8_t kLargestFusedScale = 134;
  for (int group = 0; group < STEADY_FP8_SCALES; ++group) {
    const uint8_t scale = token.scales[group];
    const bool fused = scale <= kLargestFusedScale;
    const FloatVec factor =
        hn::Set(kFloats, fused ? float_from_ue8m0(static_cast<uint8_t>(scale + 120))
                               : float_from_ue8m0(scale));
    for (int i = 0; i < STEADY_FP8_SCALE_GROUP; i += kLanes) {
      const int d = group * STEADY_FP8_SCALE_GROUP + i;
      FloatVec value = load_e4m3_bits(token.data + d);
      if (!fused) value = hn::Mul(value, hn::Set(kFloats, 0x1p120f));
      hn::Store(hn::Mul(value, factor), kFloats, values + d);
    }
  }
  if (HWY_UNLIKELY(has_e4m3_nan(token.data))) {
    for (int d = 0; d < STEADY_NOPE_DIM; ++d) {
      if ((token.data[d] & 0x7f) == kE4m3Nan) values[d] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  convert_bf16(token.data + STEADY_NOPE_DIM, STEADY_ROPE_DIM, values + STEADY_NOPE_DIM);
}

/// Adds up the 128-bit blocks of a vector.
template <class D>
HWY_INLINE hn::Vec<hn::Full128<float>> sum_of_blocks(D d, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(d) > 4) {
    const hn::Half<D> half;
    return sum_of_blocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  } else {
    return v;
  }
}

/// The sums of four vectors, in their order.
HWY_INLINE hn::Vec<hn::Full128<float>> sums_of_four(const FloatVec v[4]) {
  const hn::Repartition<uint64_t, Floats> pairs;
  const auto add_pairs = [](FloatVec a, FloatVec b) HWY_ATTR {
    return hn::Add(hn::InterleaveLower(kFloats, a, b), hn::InterleaveUpper(kFloats, a, b));
  };
  const auto ab = hn::BitCast(pairs, add_pairs(v[0], v[1]));
  const auto cd = hn::BitCast(pairs, add_pairs(v[2], v[3]));
  return sum_of_blocks(kFloats, hn::Add(hn::BitCast(kFloats, hn::InterleaveLower(pairs, ab, cd)),
                                        hn::BitCast(kFloats, hn::InterleaveUpper(pairs, ab, cd))));
}

/// scores[h][t] = q[h] . keys[t] for kHeads heads and `tokens` tokens, a multiple of kBlockTokens.
template <int kHeads>
HWY_INLINE void multiply_keys(const float* HWY_RESTRICT q, const float* HWY_RESTRICT keys,
                              int tokens, float* HWY_RESTRICT scores) {
  for (int t = 0; t < tokens; t += kBlockTokens) {
    FloatVec sums[kHeads][kBlockTokens];
    for (int h = 0; h < kHeads; ++h) {
      for (int i = 0; i < kBlockTokens; ++i) sums[h][i] = hn::Zero(kFloats);
    }
    for (int d = 0; d < kHeadDim; d += kLanes) {
      FloatVec query[kHeads];
      for (int h = 0; h < kHeads; ++h) query[h] = hn::Load(kFloats, q + h * kVectorStride + d);
      for (int i = 0; i < kBlockTokens; ++i) {
        const FloatVec key = hn::Load(kFloats, keys + (t + i) * kVectorStride + d);
        for (int h = 0; h < kHeads; ++h) sums[h][i] = hn::MulAdd(query[h], key, sums[h][i]);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      hn::Store(sums_of_four(sums[h]), hn::Full128<float>(), scores + h * kTileTokens + t);
    }
  }
}

/// out[h] = out[h] * old_weights[h] + sum_t weights[h][t] * values[t] for kHeads heads.
template <int kHeads>
HWY_INLINE void multiply_values(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT values,
                                int tokens, const float* old_weights, float* HWY_RESTRICT out) {
  for (int d = 0; d < kHeadDim; d += kBlockVectors * kLanes) {
    FloatVec sums[kHeads][kBlockVectors];
    for (int h = 0; h < kHeads; ++h) {
      const FloatVec old_weight = hn::Set(kFloats, old_weights[h]);
      for (int i = 0; i < kBlockVectors; ++i) {
        sums[h][i] = hn::Mul(hn::Load(kFloats, out + h * kHeadDim + d + i * kLanes), old_weight);
      }
    }
    for (int t = 0; t < tokens; ++t) {
      FloatVec weight[kHeads];
      for (int h = 0; h < kHeads; ++h) weight[h] = hn::Set(kFloats, weights[h * kTileTokens + t]);
      for (int i = 0; i < kBlockVectors; ++i) {
        const FloatVec value = hn::Load(kFloats, values + t * kVectorStride + d + i * kLanes);
        for (int h = 0; h < kHeads; ++h) sums[h][i] = hn::MulAdd(weight[h], value, sums[h][i]);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      for (int i = 0; i < kBlockVectors; ++i) {
        hn::Store(sums[h][i], kFloats, out + h * kHeadDim + d + i * kLanes);
      }
    }
  }
}

/// Turns a head's raw scores of a tile into weights e^(score - max) and adds them to its state.
/// Returns what the output so far has to be multiplied with.
HWY_INLINE float soften(float* HWY_RESTRICT scores, int tokens, float scale, SoftmaxState* state) {
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  const int padded = (tokens + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + tokens, scores + padded, kMinusInfinity);
  const FloatVec factor = hn::Set(kFloats, scale);
  FloatVec largest = hn::Set(kFloats, state->max);
  for (int t = 0; t < padded; t += kLanes) {
    FloatVec score = hn::Load(kFloats, scores + t);
    if (t + kLanes <= tokens) {
      score = hn::Mul(score, factor);
    } else {  // a negative scale would turn the padding around
      const auto real = hn::FirstN(kFloats, static_cast<size_t>(tokens - t));
      score = hn::IfThenElse(real, hn::Mul(score, factor), score);
    }
    hn::Store(score, kFloats, scores + t);
    largest = hn::Max(largest, score);
  }
  const float max = hn::GetLane(hn::MaxOfLanes(kFloats, largest));
  const FloatVec all_max = hn::Set(kFloats, max);
  FloatVec sum = hn::Zero(kFloats);
  for (int t = 0; t < padded; t += kLanes) {
    const FloatVec exponent = hn::Sub(hn::Load(kFloats, scores + t), all_max);
    // Highway's Exp makes 0 of a NaN, which would hide it.
    const FloatVec weight =
        hn::IfThenElse(hn::IsNaN(exponent), exponent, hn::Exp(kFloats, exponent));
    hn::Store(weight, kFloats, scores + t);
    sum = hn::Add(sum, weight);
  }
  const float old_weight = state->sum == 0.0f ? 0.0f : std::exp(state->max - max);
  *state = {max, state->sum * old_weight + hn::GetLane(hn::SumOfLanes(kFloats, sum))};
  return old_weight;
}

template <int kHeads>
void attend_heads(const float* q, const Tile& tile, float scale, SoftmaxState* states, float* out) {
  HWY_ALIGN float weights[kHeads * kTileTokens];
  float old_weights[kHeads];
  const int padded = (tile.tokens + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
  multiply_keys<kHeads>(q, tile.values, padded, weights);
  for (int h = 0; h < kHeads; ++h) {
    old_weights[h] = soften(weights + h * kTileTokens, tile.tokens, scale, &states[h]);
  }
  multiply_values<kHeads>(weights, tile.values, tile.tokens, old_weights, out);
}

/// The last heads, fewer than a block.
template <int kHeads>
void attend_rest(int heads, const float* q, const Tile& tile, float scale, SoftmaxState* states,
                 float* out) {
  if constexpr (kHeads > 0) {
    if (heads == kHeads) return attend_heads<kHeads>(q, tile, scale, states, out);
    attend_rest<kHeads - 1>(heads, q, tile, scale, states, out);
  }
}

/// De-quantises the next tokens into the tile; what is left of the last block of tokens becomes
/// zero.
bool fill_tile(TokenCursor* tokens, Tile* tile) {
  Token token;
  tile->tokens = 0;
  while (tile->tokens < kTileTokens && tokens->next(&token)) {
    float* values = tile->values + tile->tokens++ * kVectorStride;
    if (token.format == STEADY_CACHE_FP8) {
      dequantise_fp8(token, values);
    } else {
      convert_bf16(token.data, kHeadDim, values);
    }
  }
  for (int t = tile->tokens; t % kBlockTokens != 0; ++t) {
    std::fill_n(tile->values + t * kVectorStride, kHeadDim, 0.0f);
  }
  return tile->tokens > 0;
}

void attend(const Shape& shape, const Layer& layer, int row, TokenCursor tokens,
            const Partial& partial, std::byte* memory) {
  const Scratch scratch = scratch_in(shape, memory);
  std::fill_n(partial.states, shape.heads, SoftmaxState{});
  std::fill_n(partial.out, shape.heads * kHeadDim, 0.0f);
  for (int head = 0; head < shape.heads; ++head) {
    convert_bf16(reinterpret_cast<const uint8_t*>(query_vector(shape, layer, row, head)), kHeadDim,
                 scratch.q + head * kVectorStride);
  }
  Tile tile = {scratch.tile, 0};
  while (fill_tile(&tokens, &tile)) {
    for (int head = 0; head < shape.heads; head += kBlockHeads) {
      const float* q = scratch.q + head * kVectorStride;
      SoftmaxState* states = partial.states + head;
      float* out = partial.out + head * kHeadDim;
      if (head + kBlockHeads <= shape.heads) {
        attend_heads<kBlockHeads>(q, tile, shape.softmax_scale, states, out);
      } else {
        attend_rest<kBlockHeads - 1>(shape.heads - head, q, tile, shape.softmax_scale, states, out);
      }
    }
  }
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace steady::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace steady::cpu::simd {

HWY_EXPORT(attend);
HWY_EXPORT(target_name);

size_t attend_scratch_bytes(const Shape& shape) { return scratch_in(shape, nullptr).bytes; }

void attend(const Shape& shape, const Layer& layer, int row, TokenCursor tokens,
            const Partial& partial, std::byte* scratch) {
  HWY_DYNAMIC_DISPATCH(attend)(shape, layer, row, tokens, partial, scratch);
}

const char* target_name() { return HWY_DYNAMIC_DISPATCH(target_name)(); }

}  // namespace steady::cpu::simd
#endif
