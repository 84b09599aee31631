# SPDX-License-Identifier: Apache-2.0
"""FlashMLA's own folder of tests in, how many of its cases for sparse decoding Steady passes out.

    python run_flash_mla.py PATH_OF_FLASHMLA_TESTS_FOLDER [--device cpu] [--stride N] [--offset N]

Puts steady.flash_mla in place of the module flash_mla, imports test_flash_mla_sparse_decoding.py
from the folder as it is, and runs each of its cases with d_qk 512; the others are of a cache that
Steady does not read, and count as skipped. Correctness is checked and nothing is measured. Needs
what those tests import: torch, triton and rich. Ends with 0 if all that ran passed and any did.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import sys
import time
from pathlib import Path

import torch

import steady
import steady.flash_mla


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder tests/ of FlashMLA's sources")
    parser.add_argument("--device", default="cuda:0", help="or cuda:N, or cpu for a trial on few cases")
    parser.add_argument("--stride", type=int, default=1, help="run every N-th case")
    parser.add_argument("--offset", type=int, default=0, help="begin at case N")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case later")
    parser.add_argument("--least-tokens", type=int, default=0, help="skip cases of fewer slots in all")
    parser.add_argument("--most-tokens", type=int, default=sys.maxsize, help="or of more")
    chosen = parser.parse_args()
    if not (chosen.folder / "test_flash_mla_sparse_decoding.py").is_file():
        parser.error(f"{chosen.folder} holds no test_flash_mla_sparse_decoding.py")
    if chosen.stride < 1 or chosen.offset < 0:
        parser.error("--stride must be 1 or more, and --offset 0 or more")
    return chosen


def prepare(device):
    """The settings that the tests' own main makes, on this device."""
    torch.set_default_dtype(torch.bfloat16)
    torch.set_float32_matmul_precision("high")
    if device.type == "cuda":
        torch.set_default_device(device)
        torch.cuda.set_device(device)
        return
    # The tests name CUDA where they make tensors and where they wait.
    torch.Tensor.cuda = lambda self, *arguments, **named: self
    torch.cuda.synchronize = torch.cuda.empty_cache = lambda *arguments: None


def flash_mla_tests(folder):
    """FlashMLA's test module, which finds Steady where it looks for FlashMLA."""
    sys.modules["flash_mla"] = steady.flash_mla
    sys.path.insert(0, str(folder.resolve()))
    import test_flash_mla_sparse_decoding

    return test_flash_mla_sparse_decoding


def slots(case):
    return case.b * case.s_q * (case.topk + (case.extra_topk or 0))


def failure(tests, case):
    """What a case that failed has printed or raised, or None."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            passed = tests.test_flash_mla(case.to_test_param()).is_correct
    except Exception as error:
        return f"{printed.getvalue()}{type(error).__name__}: {error}"
    return None if passed else printed.getvalue()


def main():
    chosen = options()
    prepare(torch.device(chosen.device))
    tests = flash_mla_tests(chosen.folder)
    everything = tests.gen_testcase()
    # A seed for each place in the list, so that a part has the numbers of the whole.
    cases = [
        dataclasses.replace(case, num_runs=0, seed=number)
        for number, case in enumerate(everything)
        if case.d_qk == steady.HEAD_DIM and chosen.least_tokens <= slots(case) <= chosen.most_tokens
    ]
    cases = cases[chosen.offset :: chosen.stride]
    counts = collections.Counter(passed=0, failed=0)
    begin = time.monotonic()
    for case in cases:
        if time.monotonic() - begin > chosen.seconds:
            break
        words = failure(tests, case)
        counts["passed" if words is None else "failed"] += 1
        if words is not None:
            print(f"FAILED {case}\n{words}", flush=True)
        if counts.total() % 100 == 0:
            print(f"{counts.total()} of {len(cases)}: {counts['failed']} failed", flush=True)
    skipped = len(everything) - counts.total()
    print(f"{counts['passed']} passed, {counts['failed']} failed, {skipped} skipped")
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
