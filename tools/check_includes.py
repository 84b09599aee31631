# SPDX-License-Identifier: Apache-2.0
"""Checks who includes whom: downwards inside src/, only the public headers outside of it, vendor
headers and torch in their places. Usage: check_includes.py [ROOT]"""

import posixpath
import re
import sys

from source_tree import Finding, read_tree, report

# A folder of src/ may include itself and lower floors. Two folders of one floor never meet.
FLOORS = {
    "src/numeric": 0,
    "src/core": 1,
    "src/cpu": 2,
    "src/gpu": 2,
    "src/cpu/simd": 3,
    "src/cuda": 3,
    "src/hip": 3,
    "src/api": 4,
}
# The one file that knows the oracle and the fast path, to offer both.
JOIN, JOINED = "src/cpu/backend.cpp", "src/cpu/simd"

# Who stands outside of src/ uses the library as any user does: its public headers, and what is
# listed here.
OUTSIDERS = {
    "include/steady": [],
    "support": [],
    "cli": ["support"],
    "python": [],
    "examples": ["support"],
    "tests/support": ["support"],
    "tests/api": ["support", "tests/support"],
}

VENDOR_HEADER = re.compile(
    r"(cuda|cu[A-Z]|cublas|cudnn|cupti|nccl|nvtx|nvrtc|cute/|cutlass/|cub/|thrust/|mma\.h"
    r"|device_launch_parameters|hip/|hip[a-z]*/|rocm|rccl|roctx|rocprim/|ck/|ck_tile/)"
)
VENDOR_FOLDERS = ("src/gpu", "src/cuda", "src/hip", "tests/cuda", "support/cuda")

TORCH = re.compile(r"\s*(import|from)\s+torch\b|\s*#\s*include\s*[\"<](torch|ATen|c10)/")
TORCH_FILES = ("python/steady/torch.py", "python/steady/_operators.py")


def owner_of(path, folders):
    """The innermost of `folders` that holds the file, or None."""
    holders = [folder for folder in folders if path.startswith(folder + "/")]
    return max(holders, key=len, default=None)


def resolve(file, included, paths):
    """The file of the tree that an include means, or None if it is of a third party."""
    own_folder = posixpath.dirname(file.path)
    for folder in (own_folder, "src", "include", ""):
        candidate = posixpath.normpath(posixpath.join(folder, included))
        if candidate in paths:
            return candidate
    return None


def objection_inside(file, target):
    """Why a file of src/ must not include `target`, or None."""
    if target.startswith("include/"):
        return None
    own, other = owner_of(file.path, FLOORS), owner_of(target, FLOORS)
    if own is None:
        return f"stands on no floor; src/ holds {', '.join(FLOORS)}"
    if other is None:
        return f"includes {target}; src/ includes only itself and the public headers"
    if (file.path, other) == (JOIN, JOINED):
        return None
    if other != own and FLOORS[other] >= FLOORS[own]:
        lower = [folder for folder in FLOORS if FLOORS[folder] < FLOORS[own]] or ["nothing else"]
        return f"includes {target}; {own} may include itself and {', '.join(lower)}"
    return None


def objection_outside(file, target):
    """Why a file outside of src/ must not include `target`, or None."""
    own = owner_of(file.path, OUTSIDERS)
    if own is None:
        return None
    allowed = ["include/steady", own, *OUTSIDERS[own]]
    if owner_of(target, allowed):
        return None
    return f"includes {target}; {own}/ may include only {', '.join(allowed)}"


def include_findings(file, paths):
    """Includes that point the wrong way, and vendor headers out of place."""
    for line, included in file.includes():
        target = resolve(file, included, paths)
        if target is None:
            if VENDOR_HEADER.match(included) and not file.is_under(*VENDOR_FOLDERS):
                allowed = ", ".join(VENDOR_FOLDERS)
                yield Finding(file.path, line, f"vendor header {included}; only for {allowed}")
            continue
        check = objection_inside if file.is_under("src") else objection_outside
        objection = check(file, target)
        if objection:
            yield Finding(file.path, line, objection)


def torch_findings(file):
    """Uses of torch outside of its files. Tests may compare with it."""
    if file.path in TORCH_FILES or file.is_under("tests", "bench", "python/tests"):
        return
    if not (file.is_code or file.suffix == ".py"):
        return
    for number, line in enumerate(file.lines, 1):
        if TORCH.match(line):
            yield Finding(file.path, number, f"torch is for {' and '.join(TORCH_FILES)} alone")


def findings(root):
    files = read_tree(root)
    paths = {file.path for file in files}
    for file in files:
        yield from include_findings(file, paths)
        yield from torch_findings(file)


if __name__ == "__main__":
    report(findings(sys.argv[1] if len(sys.argv) > 1 else "."))
