// SPDX-License-Identifier: Apache-2.0
// A whole model replayed a thousand times; the device has as much free memory as before. Runs
// alone, for that memory is everybody's.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/cuda/device.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

class CudaMemory : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    set_row_tolerance(kRowToleranceOfBf16Products);
  }
};

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

// At each replay other lengths, some part of those that the case came with, and in one layer the
// slots of each row that these lengths cover in another order.
class VariedStep {
 public:
  explicit VariedStep(const HostileCase& c)
      : case_(c), arrays_{c.window_lengths(), c.compressed_lengths(1), c.compressed_lengths(2)} {
    for (const int32_t* array : arrays_) full_.emplace_back(array, array + kBatch);
  }

  void vary(int replay) {
    const size_t layer = static_cast<size_t>(replay) % case_.layers.size();
    const steady_layer& called = case_.layers[layer];
    const CaseSpec& spec = case_.spec();
    const size_t kind = static_cast<size_t>(called.kind);
    turn(case_.window_slots(layer), called.window, spec.window.width, full_[0]);
    if (kind > 0)
      turn(case_.compressed_slots(layer), called.compressed, spec.compressed[kind].width,
           full_[kind]);
    for (size_t array = 0; array < arrays_.size(); ++array) {
      for (int32_t request = 0; request < kBatch; ++request) {
        const int64_t percent =
            (replay * 37 + static_cast<int64_t>(array) * 44 + request * 11) % 101;
        arrays_[array][request] = static_cast<int32_t>(full_[array][request] * percent / 100);
      }
    }
  }

 private:
  static void turn(int32_t* slots, const steady_pool& pool, int32_t width,
                   const std::vector<int32_t>& lengths) {
    for (const int32_t length : lengths) {
      std::rotate(slots, slots + length / 3, slots + length);
      slots += std::max<int64_t>(pool.slots_stride, width);
    }
  }

  const HostileCase& case_;
  std::vector<int32_t*> arrays_;
  std::vector<std::vector<int32_t>> full_;
};

std::vector<Outputs> all_outputs(const HostileCase& c) {
  std::vector<Outputs> all;
  for (size_t layer = 0; layer < c.layers.size(); ++layer) all.push_back(c.outputs(layer));
  return all;
}

TEST_F(CudaMemory, AThousandReplaysOf61LayersOfOtherStepsTakeNoneAndStayEqualToEager) {
  const HostileCase c(model_spec());
  VariedStep step(c);
  const Engine engine(c.shape(), STEADY_CUDA);
  const Caller captured(engine), eager(engine);
  const Graph graph = captured.capture(c);
  captured.replay(graph);
  eager.run(c);

  size_t free_before = 0, free_after = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_before, &total), cudaSuccess);
  for (int replay = 0; replay < 1000; ++replay) {
    step.vary(replay);
    c.reset_outputs();
    captured.replay(graph);
    const std::vector<Outputs> replayed = all_outputs(c);
    if (replay == 0 || replay == 999) {
      for (size_t layer = 0; layer < c.layers.size(); ++layer)
        ASSERT_TRUE(close_to(replayed[layer], c.answer(layer))) << layer;
    }
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
