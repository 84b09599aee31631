// SPDX-License-Identifier: Apache-2.0
// Tiles of tokens and their weights in, half of the values of answers of whole rows and of partials
// of split rows out: the work of one warpgroup. Both of a block bring the scorer a row's queries.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/sm90/block/shared.cuh"

namespace steady::cuda::sm90::block {

template <int kHeads, int kSharers>
class Weigher {
 public:
  __device__ Weigher(const Call& call, int first_dim, Shared& shared)
      : call_(call), shared_(shared), first_dim_(first_dim) {}

  /// All tiles of a part that has some, from row `row` on.
  __device__ void part(int row) {
    ptx::wait_for_earlier_grids();
    load_queries(row);
    hand_over_queries();
    bool goes_on;
    do {
      weights().wait_full(shared_.weights_full);  // then there is a unit
      const Unit& unit = shared_.units[units_ % kUnits];
      const int tiles = unit.tiles;
      for (int left = tiles; left > 0; --left) {
        weights().wait_full(shared_.weights_full);
        ring().wait_full(shared_.tokens_full);  // the scorer has waited for them, products have not
        const bool begins = left == tiles, ends = left == 1;
        const bool next_row = ends && unit.ends_row && !unit.ends_part;
        if (next_row) load_queries(unit.row + 1);  // the row has been scored
        if (!begins) rescale_if_moved();
        weigh(!begins, ends);
        if (next_row) hand_over_queries();
        if (ends) end_unit(unit);
        ptx::arrive(shared_.weights_empty);
        ++tiles_;
      }
      ++units_;
      goes_on = !unit.ends_part;
    } while (goes_on);
  }

 private:
  using R = OwnRows<kHeads>;
  static constexpr int kHalves = R::kHalves;
  static constexpr int kDims = kHeadDim / kWeighers;

  __device__ Ring<kBuffers> ring() const { return Ring<kBuffers>::after(tiles_); }
  __device__ Ring<1> weights() const { return Ring<1>::after(tiles_); }

  /// Old sums are worth less where a reference moved.
  __device__ void rescale_if_moved() {
    if (shared_.weights.moved[R::warp()] == 0) [[likely]]
      return;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      sums_.rescale(half, shared_.weights.old[R::row(half)]);
    }
  }

  /// Begins to load a row's queries, of which each weigher brings two of four heads.
  __device__ void load_queries(int row) {
    constexpr int kChunks = kHeadDim / kChunkDims, kStep = kWeighers * kGroupThreads / kChunks;
    const Layer& layer = call_.layer;
    const int thread = ptx::thread_number() - 2 * kGroupThreads;
    const int chunk = thread % kChunks, heads = heads_here(call_);
    int head = thread / kChunks;
    const uint16_t* q = layer.q +
                        row_offset(layer.q_strides, call_.queries, row, first_head(call_) + head) +
                        chunk * kChunkDims;
    const bool aligned = reinterpret_cast<uintptr_t>(q) % sizeof(Chunk) == 0 &&
                         layer.q_strides.head % kChunkDims == 0;
    Block& block = shared_.q[chunk / kBlockChunks];
#pragma unroll 4
    for (; head < heads; head += kStep, q += kStep * layer.q_strides.head) {
      Chunk* const place = block.at(R::row_of(head), chunk % kBlockChunks);
      if (aligned) [[likely]] {
        ptx::copy_async_16(place, q);
      } else {
        *place = read_chunk(q);
      }
    }
  }
  __device__ void hand_over_queries() {
    ptx::wait_copies();
    ptx::fence_shared_writes();
    ptx::arrive(shared_.queries_full);
  }

  /// sums += weights · values, or without the old sums if !add_old. A unit's last tokens are kept:
  /// the answer takes their place.
  __device__ void weigh(bool add_old, bool keeps_tokens) {
    const auto rounded = ptx::uniform(ptx::describe_operand(&shared_.weights.rounded));
    const auto weighed = [&](int piece) {
      if (!keeps_tokens) hand_back(piece);
    };
    sums_.template weigh<kPieceTokens, sizeof(Octet)>(
        rounded, &shared_.tokens[ring().index][0].blocks[first_dim_ / kBlockDims], shared_.ones,
        add_old, weighed);
  }

  /// To the block that brings the piece.
  __device__ void hand_back(int piece) {
    uint64_t* const empty = &shared_.tokens_empty[piece][ring().index];
    if (kSharers == 1 || piece == ptx::cluster_rank()) {
      ptx::arrive(empty);
    } else {
      __syncwarp();
      if (R::lane() == 0) ptx::arrive(ptx::in_block(empty, piece));
    }
  }

  /// Leaves the unit where it belongs: among the slots, in the row so far, or in the answer.
  __device__ void end_unit(const Unit& unit) {
    Ring<1>::after(units_).wait_full(shared_.unit_end_full);
    ptx::sync(NamedBarriers::kWeigher + first_dim_ / kDims,
              kGroupThreads);  // values are not needed
#pragma unroll
    for (int half = 0; half < kHalves; ++half) end_unit(half, unit);
    if constexpr (kSharers > 1) ptx::fence_shared_writes();  // the other block copies there next
#pragma unroll
    for (int piece = 0; piece < kTilePieces; ++piece) hand_back(piece);
  }

  __device__ void end_unit(int half, const Unit& unit) {
    const bool there = R::head(half) < heads_here(call_);
    const UnitPlace& place = unit.place;
    const HeadEnd end = shared_.unit_end[R::row(half)];
    sums_.end(half, end, place, [&] { return kept(); });
    if (place.finishes) [[likely]] {
      write_answer(half, unit.row);
    } else if (!place.split) [[unlikely]] {
      sums_.keep(half, kept());
    } else if (there) {
      sums_.store(half, partial_out(call_, place.slot, first_head(call_) + R::head(half)) +
                            first_dim_ + 2 * (R::lane() % 4));
    }
  }

  __device__ float4* kept() const {
    return kept_sums<kHalves * kDims / 4>(call_, kWeighers, first_dim_ / kDims);
  }

  /// Of the tile's octets the one in whose place a warp stages an answer: one that has come from
  /// the other block, where there is one, because what goes there may not have been read yet.
  __device__ static int staging_octet(int half) {
    return kSharers == 1 ? R::warp() * kHalves + half
                         : (1 - ptx::cluster_rank()) * kWarps + R::warp();
  }

  /// Writes the row's answer for eight heads of the warp, through the place of values.
  __device__ void write_answer(int half, int row) {
    Octet& place = shared_.tokens[ring().index][staging_octet(half)];
    auto& staged = reinterpret_cast<Answers&>(place.blocks[first_dim_ / kBlockDims]);
    const int lane = R::lane();
    if constexpr (kSharers > 1) __syncwarp();  // all have read the half before
#pragma unroll
    for (int j = 0; j < kDims / 8; j += 4) {
      const auto values = [&](int i) {
        const float* sum = sums_.pair(half, j + i);
        return bf16x2(sum[0], sum[1]);
      };
      ptx::store_matrices(staged.at(lane % 8, j + lane / 8), values(0), values(1), values(2),
                          values(3));
    }
    __syncwarp();
    const Layer& layer = call_.layer;
    const int first = R::first_head(R::warp(), half), heads = min(8, heads_here(call_) - first);
    const int64_t stride = layer.out_strides.head;
    uint16_t* out = layer.out +
                    row_offset(layer.out_strides, call_.queries, row, first_head(call_) + first) +
                    first_dim_ + kChunkDims * lane;
    const bool aligned =
        reinterpret_cast<uintptr_t>(out) % sizeof(Chunk) == 0 && stride % kChunkDims == 0;
#pragma unroll 4
    for (int head = 0; head < heads; ++head, out += stride) {
      const Chunk chunk = *staged.at(head, lane);
      if (aligned) [[likely]] {
        *reinterpret_cast<Chunk*>(out) = chunk;
      } else {
        write_chunk(out, chunk);
      }
    }
  }

  const Call& call_;
  Shared& shared_;
  const int first_dim_;
  uint32_t units_ = 0, tiles_ = 0;  // so far
  UnitSums<kDims> sums_;
};

}  // namespace steady::cuda::sm90::block
