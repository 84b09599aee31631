// SPDX-License-Identifier: Apache-2.0
// A model of 61 layers of three kinds goes in; one workspace, one plan a step and one graph carry
// it through several steps.
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

// Window only twice, then 4:1 and 128:1 in turn, as in DeepSeek-V4-Flash.
CaseSpec model_spec() {
  CaseSpec spec;
  spec.heads = 8;
  spec.batch = 2;
  spec.window = {128, STEADY_CACHE_FP8, 64};
  spec.compressed = {{}, {160, STEADY_CACHE_FP8, 64}, {65, STEADY_CACHE_FP8, 2}};
  spec.layers = {0, 0};
  while (spec.layers.size() < 61) spec.layers.push_back(spec.layers.back() == 1 ? 2 : 1);
  return spec;
}

class WholeModel : public OnEveryBackend {};

INSTANTIATE_TEST_SUITE_P(, WholeModel, kEveryBackend, backend_name);

TEST_P(WholeModel, OfThreeKindsAnd61LayersIsOneGraph) {
  HostileCase model(model_spec());
  const Engine engine(model.shape(), backend());
  const Caller caller(engine);
  const Graph graph = caller.capture(model);
  for (uint64_t step = 1; step < 4; ++step) {
    model.refill(step);
    caller.replay(graph);
    for (size_t layer = 0; layer < model.layers.size(); ++layer)
      ASSERT_TRUE(close_to(model.outputs(layer), model.answer(layer)))
          << "step " << step << ", layer " << layer;
    EXPECT_TRUE(model.gaps_untouched());
  }
}

TEST_P(WholeModel, LayersMayComeInAnyOrderAndNumberAfterOnePlan) {
  const HostileCase model(model_spec());
  const Engine engine(model.shape(), backend());
  const Caller caller(engine);
  caller.run(model);
  std::vector<Outputs> forwards;
  for (size_t layer = 0; layer < model.layers.size(); ++layer)
    forwards.push_back(model.outputs(layer));
  model.reset_outputs();
  ASSERT_TRUE(ok(steady_plan(engine.get(), caller.workspace(), &model.step, nullptr)));
  for (size_t layer = model.layers.size(); layer-- > 0;) {
    for (int repeat = 0; repeat < 2; ++repeat)
      ASSERT_TRUE(ok(steady_decode(engine.get(), caller.workspace(), &model.step,
                                   &model.layers[layer], nullptr)));
    ASSERT_TRUE(ok(steady_stream_wait(engine.get(), nullptr)));
    EXPECT_TRUE(same_bits(model.outputs(layer), forwards[layer])) << "layer " << layer;
  }
}

}  // namespace
}  // namespace steady::test
