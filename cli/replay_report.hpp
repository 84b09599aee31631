// SPDX-License-Identifier: Apache-2.0
// Results of replays in, a table or a JSON document out.
#pragma once

#include <vector>

#include "cli/replay_call.hpp"

namespace steady::cli {

/// To standard output.
void print_replay_table(const std::vector<ReplayResult>& results, const ReplaySettings& settings,
                        const support::Roof& roof);
void print_replay_json(const std::vector<ReplayResult>& results, const ReplaySettings& settings,
                       const support::Roof& roof);

}  // namespace steady::cli
