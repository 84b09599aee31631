// SPDX-License-Identifier: Apache-2.0
// A whole model replayed a thousand times; not a byte of device memory is taken. Runs alone, for
// the device's free memory is everybody's.
#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "tests/cuda/device.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

class CudaMemory : public OnDevice {};

constexpr int32_t kBatch = 4;

CaseSpec model_spec() {
  CaseSpec spec;
  spec.heads = 16;
  spec.batch = kBatch;
  spec.window = {128, STEADY_CACHE_FP8, 64};
  spec.compressed = {{}, {512, STEADY_CACHE_FP8, 64}, {1500, STEADY_CACHE_FP8, 2}};
  spec.layers = {0, 0};
  while (spec.layers.size() < 61) spec.layers.push_back(spec.layers.back() == 1 ? 2 : 1);
  return spec;
}

// Some part of the lengths that the case came with, another at each replay.
class VariedLengths {
 public:
  explicit VariedLengths(const HostileCase& c)
      : arrays_{c.window_lengths(), c.compressed_lengths(1), c.compressed_lengths(2)} {
    for (const int32_t* array : arrays_) {
      for (int32_t request = 0; request < kBatch; ++request) full_.push_back(array[request]);
    }
  }

  void vary(int replay) {
    for (size_t i = 0; i < full_.size(); ++i) {
      const int64_t percent = (replay * 37 + static_cast<int64_t>(i) * 11) % 101;
      arrays_[i / kBatch][i % kBatch] = static_cast<int32_t>(full_[i] * percent / 100);
    }
  }

 private:
  std::vector<int32_t*> arrays_;
  std::vector<int32_t> full_;
};

TEST_F(CudaMemory, AThousandReplaysOf61LayersWithOtherLengthsTakeNoneAndStayEqualToEager) {
  const HostileCase c(model_spec());
  VariedLengths lengths(c);
  const Engine engine(c.shape(), STEADY_CUDA);
  const Caller captured(engine), eager(engine);
  const Graph graph = captured.capture(c);
  captured.replay(graph);
  eager.run(c);

  size_t free_before = 0, free_after = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_before, &total), cudaSuccess);
  for (int replay = 0; replay < 1000; ++replay) {
    lengths.vary(replay);
    captured.replay(graph);
    if (replay % 50 != 0 && replay != 999) continue;  // an eager step takes the host much longer
    std::vector<Outputs> replayed;
    for (size_t layer = 0; layer < c.layers.size(); ++layer) replayed.push_back(c.outputs(layer));
    c.reset_outputs();
    eager.run(c);
    for (size_t layer = 0; layer < c.layers.size(); ++layer) {
      ASSERT_TRUE(same_bits(replayed[layer], c.outputs(layer)))
          << "replay " << replay << ", layer " << layer;
    }
  }
  ASSERT_EQ(cudaMemGetInfo(&free_after, &total), cudaSuccess);
  EXPECT_EQ(free_before, free_after);
}

}  // namespace
}  // namespace steady::test
