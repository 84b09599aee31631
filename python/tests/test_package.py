# SPDX-License-Identifier: Apache-2.0
"""The installed package in, its command line, its types and what it imports out."""

import importlib.machinery
import json
import subprocess
import sys
from pathlib import Path

import cases
import pytest
import steady

PACKAGE = Path(steady.__file__).parent


def program(*arguments):
    command = [sys.executable, "-m", "steady", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_info_shows_the_backends_that_the_package_has():
    result = program("info", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["version"] == steady.__version__
    assert document["backends"] == steady.backends()


def test_replay_checks_a_recorded_call():
    file = cases.RECORDED / "swa_only_h64.safetensors"
    result = program("replay", "--layers", 2, "--steps", 3, "--json", file)
    assert result.returncode == 0, result.stdout
    document = json.loads(result.stdout)
    (replayed,) = document["files"]
    assert replayed["passed"] and replayed["replay_equals_eager"]
    assert replayed["allocations"] == 0


def test_replay_refuses_what_is_no_recorded_call():
    result = program("replay", __file__)
    assert result.returncode == 1
    assert "too" in result.stderr or "header" in result.stderr


def test_wrong_usage_ends_with_2():
    assert program("dance").returncode == 2
    assert program().returncode == 2


def test_the_command_is_installed_beside_python():
    command = Path(sys.executable).parent / "steady"
    if not command.exists():
        pytest.skip("the package was not installed by pip")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == f"steady {steady.__version__}"


def test_nothing_but_the_torch_doors_imports_torch_or_numpy():
    code = "import steady, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_types_of_the_module_are_told():
    assert (PACKAGE / "py.typed").exists()
    stub = (PACKAGE / "_core.pyi").read_text(encoding="utf-8")
    for name in ("Engine", "Workspace", "Stream", "Step", "Layer", "Graph"):
        assert f"class {name}:" in stub
    for told in ("class Error(RuntimeError):", "class InvalidArgument(Error, ValueError):",
                 "__version__: str"):  # fmt: skip
        assert told in stub


def test_the_module_is_for_this_python():
    """And the wheel says so: one that fits more Pythons than its module fails where it is imported."""
    file = Path(steady._core.__file__)
    assert file.name == "_core" + importlib.machinery.EXTENSION_SUFFIXES[0]
    tags = [
        line.split()[1]
        for path in PACKAGE.parent.glob("steady-*.dist-info/WHEEL")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("Tag:")
    ]
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert all(tag.startswith(f"{version}-{version}-") for tag in tags), tags


def is_told(thing):
    """A docstring that is more than a signature."""
    return any(line and "->" not in line for line in (thing.__doc__ or "").splitlines())


def untold_members(thing):
    """The fields of a NamedTuple are left out: what they are stands below them in the source."""
    fields = getattr(thing, "_fields", ())
    return [
        name
        for name, member in vars(thing).items()
        if not name.startswith("_") and name not in fields and not is_told(member)
    ]


def test_all_that_is_public_says_what_it_is():
    for name in steady.__all__:
        thing = getattr(steady, name)
        if callable(thing):
            assert is_told(thing), name
        if isinstance(thing, type):
            assert not untold_members(thing), name


def test_constants_are_those_of_the_library():
    assert steady.HEAD_DIM == 512
    assert steady.page_bytes(64) == 64 * steady.FP8_TOKEN_BYTES
    assert steady.page_bytes(3, "bf16") == 3 * steady.BF16_TOKEN_BYTES
