// SPDX-License-Identifier: Apache-2.0
// One layer's inputs on the host in, one plan and one decode of the oracle's engine out.
#include "cli/oracle.hpp"

namespace steady::cli {
namespace {

steady_options oracle_options() {
  auto options = make<steady_options>();
  options.backend = STEADY_ORACLE;
  return options;
}

steady_pool host_pool(const support::RecordedScope& recorded, const ScopeInputs& inputs) {
  return {recorded.pages.data(), recorded.page_stride_bytes, recorded.page_count,
          inputs.slots.data(), 0};
}

}  // namespace

Oracle::Oracle(const support::RecordedCall& call)
    : call_(call),
      engine_(call.shape, oracle_options()),
      workspace_(engine_),
      answer_{std::vector<uint16_t>(call.q.size()), std::vector<float>(call.lse_exact.size())} {}

const OracleAnswer& Oracle::answer(const StepInputs& inputs, int layer) {
  auto step = make<steady_step>();
  step.batch = call_.batch();
  step.window.values = inputs.scopes[0].lengths.data();

  auto decoded = make<steady_layer>();
  decoded.q = &inputs.q[layer * call_.q.size()];
  decoded.out = answer_.out.data();
  decoded.lse = answer_.lse.data();
  decoded.sink = call_.sinks.empty() ? nullptr : call_.sinks.data();
  decoded.window = host_pool(call_.window, inputs.scopes[0]);
  if (call_.compressed) {
    step.compressed[0].values = inputs.scopes[1].lengths.data();
    decoded.compressed = host_pool(*call_.compressed, inputs.scopes[1]);
  }
  engine_.plan(workspace_, step);
  engine_.decode(workspace_, step, decoded);
  return answer_;
}

}  // namespace steady::cli
