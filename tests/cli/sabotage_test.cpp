// SPDX-License-Identifier: Apache-2.0
// The program over a library that breaks one promise at a time in, the failure that it reports out.
#include <gmock/gmock.h>

#include <ostream>

#include "tests/cli/program.hpp"

namespace steady::test {
namespace {

using testing::HasSubstr;

struct Sabotage {
  const char* deed;
  const char* complaint;
  const char* options = "";
};

std::ostream& operator<<(std::ostream& to, const Sabotage& sabotage) { return to << sabotage.deed; }

class Sabotaged : public testing::TestWithParam<Sabotage> {};

INSTANTIATE_TEST_SUITE_P(
    , Sabotaged,
    testing::Values(Sabotage{"allocate", "the replays allocated 4 times and freed 4 times"},
                    Sabotage{"flip_a_bit", "replayed and eager answers are not the same bits"},
                    Sabotage{"write_behind", "something was written behind an answer"},
                    Sabotage{"do_nothing", "replayed and eager answers are not the same bits"},
                    Sabotage{"drop_the_sink", "from the exact answer, the limit is 2.5e-03"},
                    Sabotage{"change_later_queries", "from the oracle's answer, the limit is"},
                    Sabotage{"refuse", "STEADY_INTERNAL"},
                    Sabotage{"hide_faults", "stray slots reported, but", "--checked "}),
    [](const auto& sabotage) { return std::string(sabotage.param.deed); });

TEST_P(Sabotaged, ReplayFails) {
  const Sabotage& sabotage = GetParam();
  const Outcome outcome =
      run_steady(std::string("replay --backend cpu --layers 2 --steps 4 ") + sabotage.options +
                     STEADY_RECORDED_CALLS "/sink_inf_h64.safetensors",
                 std::string("LD_PRELOAD=") + shell_word(STEADY_SABOTEUR) +
                     " STEADY_SABOTAGE=" + sabotage.deed);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, HasSubstr(sabotage.complaint));
}

}  // namespace
}  // namespace steady::test
