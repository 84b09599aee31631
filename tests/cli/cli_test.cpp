// SPDX-License-Identifier: Apache-2.0
// Command lines in; the program's exit codes, tables, documents and complaints out.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "steady/cache_format.h"
#include "tests/cli/program.hpp"
#include "tests/cli/temporary_file.hpp"

namespace steady::test {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr char kEscape[] = "\x1b";

std::string recorded(const std::string& name) {
  return std::string(STEADY_RECORDED_CALLS "/") + name + ".safetensors";
}

const std::string kCall = recorded("lonely_rows_h64");
const std::string kSmall = " --layers 3 --steps 5 ";

json parsed(const Outcome& outcome) {
  EXPECT_TRUE(json::accept(outcome.out)) << outcome.out;
  return json::parse(outcome.out, nullptr, false);
}

TEST(Cli, HelpsEverywhereWithExamplesAndExitCodes) {
  for (const char* verb : {"", "replay", "info", "inspect"}) {
    const Outcome help = run_steady(std::string(verb) + " --help");
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, HasSubstr("Exit codes: 0"));
    EXPECT_THAT(help.err, IsEmpty());
    EXPECT_THAT(help.out, HasSubstr(*verb == '\0' ? "replay" : "Examples:\n  steady"));
  }
}

TEST(Cli, NamesItsVersion) {
  const Outcome version = run_steady("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out, "steady " STEADY_VERSION "\n");
}

TEST(Cli, EndsWithTwoAfterWrongUsage) {
  for (const char* arguments :
       {"", "frobnicate", "replay", "inspect", "info file", "replay --layers 0 x",
        "replay --layers many x", "replay --steps -1 x", "replay --backend abacus x",
        "replay --threads 1e9 x", "--json", "replay --frobnicate x", "inspect a b"}) {
    const Outcome outcome = run_steady(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_THAT(outcome.out, IsEmpty()) << arguments;
    EXPECT_THAT(outcome.err, Not(IsEmpty())) << arguments;
  }
}

TEST(Cli, SaysWhatIsWrongWithTheUsage) {
  EXPECT_THAT(run_steady("frobnicate").err, HasSubstr("frobnicate"));
  EXPECT_THAT(run_steady("").err, HasSubstr("A verb is required"));
  EXPECT_THAT(run_steady("replay").err, HasSubstr("FILE is required"));
  EXPECT_THAT(run_steady("replay --layers 0 x").err, HasSubstr("not in range 1 to 1024"));
  EXPECT_THAT(run_steady("replay --backend abacus x").err, HasSubstr("abacus not in {auto,"));
}

TEST(Cli, EndsWithOneWhereItsOutputCannotBeWritten) {
  EXPECT_EQ(run_steady("info >/dev/full").code, 1);
  EXPECT_EQ(run_steady("inspect " + kCall + " >/dev/full").code, 1);
}

TEST(Cli, ColoursNothingInAPipe) {
  const Outcome outcome = run_steady("replay" + kSmall + kCall);
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_THAT(outcome.out, Not(HasSubstr(kEscape)));
  EXPECT_THAT(outcome.err, IsEmpty());
}

TEST(Cli, ColoursAndShowsProgressOnATerminal) {
  const Outcome outcome = run_steady_on_terminal("replay" + kSmall + kCall);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("\x1b[1m"));
  EXPECT_THAT(outcome.out, HasSubstr("step 5 of 5"));
}

TEST(Cli, ColoursNothingWhereNoColorIsSet) {
  EXPECT_THAT(run_steady_on_terminal("info").out, HasSubstr("\x1b[32m"));
  EXPECT_THAT(run_steady_on_terminal("info", "NO_COLOR=1").out, Not(HasSubstr(kEscape)));
  EXPECT_THAT(run_steady_on_terminal("info", "TERM=dumb").out, Not(HasSubstr(kEscape)));
}

TEST(Info, ListsBackendsBestFirstAndTheRoofs) {
  const json document = parsed(run_steady("info --json"));
  ASSERT_GE(document["backends"].size(), 2u);
  EXPECT_EQ(document["backends"].back()["name"], "oracle");
  int chosen = 0;
  for (const json& backend : document["backends"]) chosen += backend["chosen"] == true;
  EXPECT_EQ(chosen, 1);
  EXPECT_GT(document["roof"]["copy_gb_per_s"], 0);
  EXPECT_GT(document["roof"]["product_gflop_per_s"], 0);
  EXPECT_EQ(document["version"], STEADY_VERSION);
}

TEST(Info, SaysWhatTheEnvironmentChooses) {
  const json document = parsed(run_steady("info --json", "STEADY_BACKEND=oracle"));
  EXPECT_EQ(document["backends"].back()["chosen"], true);
}

TEST(Info, EndsWithOneWhereTheEnvironmentAsksForNoBackend) {
  const Outcome outcome = run_steady("info", "STEADY_BACKEND=abacus");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("STEADY_BACKEND is 'abacus'"));
  EXPECT_THAT(outcome.out, HasSubstr("cpu: can run"));
}

TEST(Inspect, ShowsWhatARecordedCallHolds) {
  const Outcome outcome = run_steady("inspect " + recorded("dual_scope_h64"));
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("BF16 [3, 1, 64, 512]"), HasSubstr("\"block_size\": \"256\""),
                    HasSubstr("batch 3, queries 1, heads 64"),
                    HasSubstr("199 valid (179 different), 7 are -1, 0 outside"),
                    HasSubstr("120      331 #####")));
}

TEST(Inspect, CountsSlotsLengthsAndScales) {
  const json document = parsed(run_steady("inspect --json " + recorded("dual_scope_h64")));
  EXPECT_EQ(document["shape"]["heads"], 64);
  ASSERT_EQ(document["scopes"].size(), 2u);
  const json& window = document["scopes"][0];
  EXPECT_EQ(window["slots"], json::parse(R"({"valid": 199, "different": 179, "none": 7,
                                             "outside": 0, "past_length": 178})"));
  EXPECT_EQ(window["lengths"], json::parse(R"({"1": 1, "77": 1, "128": 1})"));
  int64_t scales = 0;
  for (const json& count : window["scale_bytes"]) scales += count.get<int64_t>();
  EXPECT_EQ(scales, 179 * STEADY_FP8_SCALES);
}

TEST(Replay, PassesEveryRecordedCallOnEveryBackend) {
  for (const char* backend : {"cpu", "oracle"}) {
    const Outcome outcome =
        run_steady(std::string("replay --json --layers 2 --steps 4 --backend ") + backend +
                   " " STEADY_RECORDED_CALLS "/*.safetensors");
    EXPECT_EQ(outcome.code, 0) << outcome.out;
    const json document = parsed(outcome);
    EXPECT_EQ(document["files"].size(), 7u);
    for (const json& file : document["files"]) {
      EXPECT_EQ(file["passed"], true);
      EXPECT_LT(file["worst_out_error"], 2.5e-3);
      EXPECT_LT(file["worst_lse_error"], 1e-4);
      EXPECT_EQ(file["addresses_moved"], 0);
      EXPECT_EQ(file["allocations"], 0);
      EXPECT_EQ(file["frees"], 0);
      EXPECT_EQ(file["replay_equals_eager"], true);
      EXPECT_GT(file["step_us"], 0);
    }
  }
}

TEST(Replay, ShowsOneRowForEachFile) {
  const Outcome outcome = run_steady("replay" + kSmall + kCall);
  EXPECT_THAT(outcome.out, StartsWith("file"));
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("4×1×64, 64+64"), HasSubstr("  yes      ok\n"),
                                 HasSubstr("3 layers captured once, 5 steps replayed")));
}

TEST(Replay, ReportsTheFaultsThatItSlipsIn) {
  for (const char* backend : {"cpu", "oracle"}) {
    const Outcome outcome =
        run_steady(std::string("replay --checked --json --backend ") + backend + kSmall + kCall);
    EXPECT_EQ(outcome.code, 0) << outcome.out;
    const json faults = parsed(outcome)["files"][0]["faults"];
    for (const char* kind : {"negative_length", "long_length", "stray_slot"}) {
      EXPECT_GT(faults[kind]["count"], 0) << kind;
      EXPECT_EQ(faults[kind]["first"]["step"], 1) << kind;
    }
    EXPECT_EQ(faults["stray_slot"]["first"]["layer"], 0);
  }
  EXPECT_THAT(run_steady("replay --checked" + kSmall + kCall).out,
              AllOf(HasSubstr("stray slots"), HasSubstr("(first: step 1, layer 0, window")));
}

TEST(Replay, RefusesADamagedFileAndStillRunsTheOthers) {
  const TemporaryFile damaged(read_file(kCall).substr(0, 5000));
  const Outcome outcome = run_steady("replay" + kSmall + damaged.path() + " " + kCall);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, StartsWith("steady: " + damaged.path() + ": tensor "));
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("refused\n"), HasSubstr("  yes      ok\n")));

  const json document = parsed(run_steady("replay --json" + kSmall + damaged.path()));
  EXPECT_EQ(document["files"][0]["passed"], false);
  EXPECT_THAT(document["files"][0]["refusal"].get<std::string>(), HasSubstr("the data, but only"));
}

TEST(Replay, RefusesFilesThatAreNoRecordedCalls) {
  const TemporaryFile empty;
  for (const std::string& path : {empty.path(), std::string("/no/such/file"), testing::TempDir(),
                                  std::string(STEADY_PROGRAM)}) {
    for (const char* verb : {"inspect ", "replay "}) {
      const Outcome outcome = run_steady(verb + shell_word(path));
      EXPECT_EQ(outcome.code, 1) << path;
      EXPECT_THAT(outcome.err, StartsWith("steady: " + path + ": ")) << path;
    }
  }
}

TEST(Replay, FailsWhereTheRecordedAnswerIsAnother) {
  std::string bytes = read_file(recorded("sink_inf_h64"));
  const size_t header_end = bytes.find("}}") + 2;
  const size_t q_begin = header_end + bytes.substr(header_end).find_first_not_of(' ') + 396032;
  for (size_t i = 0; i < 4096; ++i) bytes[q_begin + i] = static_cast<char>(bytes[q_begin + i] ^ 1);
  const TemporaryFile lying(bytes);
  const Outcome outcome = run_steady("replay" + kSmall + lying.path());
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, HasSubstr("step 0, layer 0: out is"));
}

}  // namespace
}  // namespace steady::test
