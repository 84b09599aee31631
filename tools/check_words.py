# SPDX-License-Identifier: Apache-2.0
"""Checks what may be written where: calls that a library must not make, assembly, the numbers of
the cache layout, the opening lines, unfinished notes, paths of one machine.
Usage: check_words.py [ROOT]"""

import re
import sys

from source_tree import Finding, read_tree, report

BANNED_CALL = re.compile(
    r"\b((?P<name>getenv|secure_getenv|v?(?:f|s|sn|d|as)?printf|f?puts|putchar|abort|exit|_exit|_Exit"
    r"|quick_exit)\s*\(|(?P<stream>std::c(?:out|err|log))\b)"
)
ENVIRONMENT_FILE = "src/api/registry.cpp"

ASSEMBLY = re.compile(r"\b(asm|__asm|__asm__)\b")
ASSEMBLY_FOLDER = re.compile(r"(^|/)(ptx|isa)/")

LAYOUT_NUMBER = re.compile(r"(?<![\w.])(448|576|584)[uUlLzZ]*(?![\w.])")  # 448.0f is another 448
LAYOUT_FOLDERS = ("include", "src", "cli", "support", "examples", "bench", "python")
LAYOUT_FILE = "include/steady/cache_format.h"

SPDX = "SPDX-License-Identifier: Apache-2.0"
SENTENCE = re.compile(r'\s*(//|/?\*|#|""")\s*\w')
# Spelled in pieces, so that this file passes its own check.
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$}~-])/(home|root|work|Users|mnt)/\w")


def matches(lines, pattern):
    """Pairs of line number and match, for each match of `pattern` in `lines`."""
    for number, line in enumerate(lines, 1):
        for match in pattern.finditer(line):
            yield number, match


def call_findings(file):
    """The library leaves the process, its output and its environment alone."""
    if not (file.is_under("src") and file.is_code):
        return
    for line, match in matches(file.bare_code().splitlines(), BANNED_CALL):
        name = match["name"] or match["stream"]
        if name == "getenv" and file.path == ENVIRONMENT_FILE:
            continue
        yield Finding(
            file.path,
            line,
            f"{name} in the library; src/ neither prints nor ends the process, and only "
            f"{ENVIRONMENT_FILE} reads the environment (getenv)",
        )


def assembly_findings(file):
    """Assembly has a name and a place of its own."""
    if not file.is_code or ASSEMBLY_FOLDER.search(file.path):
        return
    for line, match in matches(file.bare_code().splitlines(), ASSEMBLY):
        yield Finding(file.path, line, f"{match[0]}; assembly is for folders ptx/ and isa/ alone")


def layout_findings(file):
    """The layout's numbers have one home. Comments and literals may quote them."""
    if not file.is_under(*LAYOUT_FOLDERS) or file.path == LAYOUT_FILE:
        return
    if not (file.is_code or file.suffix == ".py"):
        return
    lines = file.bare_code().splitlines() if file.is_code else file.lines
    for line, match in matches(lines, LAYOUT_NUMBER):
        yield Finding(
            file.path,
            line,
            f"{match[1]} is a number of the cache layout; use the names of {LAYOUT_FILE}",
        )


def opening_findings(file):
    """A source file opens with its licence and, a list of targets apart, with what goes in and what
    comes out."""
    if not (file.is_code or file.is_script):
        return
    lines = [line for line in file.lines[:3] if not line.startswith("#!")] + ["", ""]
    if SPDX not in lines[0]:
        yield Finding(file.path, 1, f"the first line must hold '{SPDX}'")
    elif not file.path.endswith("CMakeLists.txt") and not SENTENCE.match(lines[1]):
        yield Finding(file.path, 2, "a sentence on what goes in and what comes out must follow here")


def note_findings(file):
    """Nothing unfinished, nothing of one machine."""
    for line, match in matches(file.lines, UNFINISHED):
        yield Finding(file.path, line, f"{match[0]}; finish it, or say it in an issue")
    for line, match in matches(file.lines, MACHINE_PATH):
        yield Finding(file.path, line, f"{match[0]}… is a path of one machine; make it relative")


RULES = [call_findings, assembly_findings, layout_findings, opening_findings, note_findings]


def findings(root):
    for file in read_tree(root):
        for rule in RULES:
            yield from rule(file)


if __name__ == "__main__":
    report(findings(sys.argv[1] if len(sys.argv) > 1 else "."))
