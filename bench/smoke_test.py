# SPDX-License-Identifier: Apache-2.0
"""Runs `steady bench` on a few small cases and checks what it prints, not how fast it is.
Usage: smoke_test.py STEADY"""

import json
import math
import subprocess
import sys
import tempfile

SIZES = ("batch", "queries", "heads", "window_tokens", "compressed_tokens", "threads")
SPEEDS = ("steady_us", "steady_us_p10", "steady_us_p90", "tflop_per_s", "gb_per_s")
ROOFS = ("roof_gflop_per_s", "roof_gb_per_s", "roof_percent")
BASELINES = ("gather", "tuned_gather", "sgemm")

QUICK = ["--heads", "8", "--batch", "1", "--repetitions", "1", "--min-time", "0.01"]


def bench(steady, *arguments):
    command = [steady, "bench", *QUICK, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_json_has_a_line_for_each_case(steady):
    cases = [json.loads(line) for line in bench(steady, "--json").splitlines()]
    assert [[case[name] for name in SIZES[:5]] for case in cases] == [
        [1, 1, 8, 128, 512],
        [1, 1, 8, 128, 1024],
    ]
    for case in cases:
        names = [*SIZES, *SPEEDS, *ROOFS]
        if "sgemm_us" in case:  # built with BLAS
            names += [name + "_us" for name in BASELINES]
            names += ["times_" + name for name in BASELINES]
        for name in names:
            assert math.isfinite(case[name]) and case[name] > 0, name
        assert case["steady_us_p10"] <= case["steady_us"] <= case["steady_us_p90"]
        assert case["oracle_error"] < 2.5e-3 and case["baseline_error"] < 2.5e-3
        assert case["backend"] and case["detail"] and case["version"]


def test_table_has_a_row_for_each_case(steady):
    lines = bench(steady, "--compressed", "0,70", "--window", "33", "--queries", "2").splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["1×2×8, 33+0", "1×2×8, 33+70"]


def test_lines_can_be_saved_beside_the_table(steady):
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
        table = bench(steady, "--save", file.name, "--compressed", "0")
        assert table.startswith("batch") and json.loads(file.read())["compressed_tokens"] == 0


def test_oracle_can_be_measured(steady):
    arguments = ["--backend", "oracle", "--window", "1", "--compressed", "0", "--json"]
    assert json.loads(bench(steady, *arguments))["backend"] == "oracle"


def test_wrong_usage_is_said(steady):
    for arguments in (["--heads", "129"], ["--batch", "0"], ["--window", "0"], ["--backend", "x"]):
        done = subprocess.run([steady, "bench", *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and arguments[0] in done.stderr, done


def test_steps_of_many_layers_and_three_kinds(steady):
    case = json.loads(bench(steady, "--kinds", "3", "--layers", "7", "--compressed", "70", "--json"))
    assert (case["layers"], case["kinds"]) == (7, 3) and case["steady_us"] > 0
    assert "gather_us" not in case  # the baselines do one layer of one kind


def test_ragged_requests_have_less_to_do_and_no_baselines(steady):
    sizes = ["--batch", "32", "--compressed", "70", "--json"]
    full, ragged = (json.loads(bench(steady, *sizes, *more).splitlines()[-1])
                    for more in ([], ["--ragged"]))
    assert full["batch"] == ragged["batch"] == 32
    assert (full["ragged"], ragged["ragged"]) == (False, True)
    work = [case["tflop_per_s"] * case["steady_us"] for case in (full, ragged)]
    assert 0.3 < work[1] / work[0] < 0.7, work
    assert "gather_us" not in ragged and ragged["oracle_error"] < 2.5e-3


def test_times_of_another_kernel_stand_beside(steady):
    header = "batch,other,heads,queries,window_tokens,compressed_tokens,other_us\n"
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write(header + "1,x,8,1,128,512,12.5\n")
        file.flush()
        cases = bench(steady, "--json", "--beside", file.name).splitlines()
        known, unknown = (json.loads(case) for case in cases)
        assert known["other_us"] == 12.5 and unknown["other_us"] is None
        assert math.isclose(known["times_other"], 12.5 / known["steady_us"])
        file.write("1,x,8,1,128\n")
        file.flush()
        done = subprocess.run([steady, "bench", *QUICK, "--beside", file.name], capture_output=True)
        assert done.returncode == 1 and b"line 3: 5 cells, the header has 7" in done.stderr


def test_kernels_cannot_be_traced_on_the_host(steady):
    done = subprocess.run([steady, "bench", *QUICK, "--backend", "cpu", "--nodes"],
                          capture_output=True)
    assert done.returncode == 1, done
    assert b"--nodes traces the kernels of a device; the backend is cpu" in done.stderr, done


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test(sys.argv[1])
            print(name, "passed")
