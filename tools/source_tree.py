# SPDX-License-Identifier: Apache-2.0
"""The files of a source tree, as the checkers read them, and the form in which they complain."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

CODE_SUFFIXES = {".h", ".hpp", ".c", ".cpp", ".cuh", ".cu", ".hip"}
SCRIPT_SUFFIXES = {".py", ".sh", ".cmake"}
PROSE_SUFFIXES = {".md", ".json", ".csv", ".yml", ".in", ".map"}
SUFFIXES = CODE_SUFFIXES | SCRIPT_SUFFIXES | PROSE_SUFFIXES
SCRIPT_NAMES = {"CMakeLists.txt", "run"}
SKIPPED_FOLDERS = {".git", "build", "__pycache__"}

# Line comments, block comments and literals of C and C++. An apostrophe after a digit separates
# digits and begins no literal.
_COMMENT_OR_LITERAL = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"(?P<tag>[^()\\\s]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Finding:
    """One broken rule: where, and what is allowed instead."""

    path: str
    line: int
    message: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class SourceFile:
    """A text file and its path from the root of the tree."""

    path: str
    text: str

    @property
    def suffix(self):
        return Path(self.path).suffix

    @property
    def is_code(self):
        return self.suffix in CODE_SUFFIXES

    @property
    def is_script(self):
        return self.suffix in SCRIPT_SUFFIXES or Path(self.path).name in SCRIPT_NAMES

    @property
    def lines(self):
        return self.text.splitlines()

    def is_under(self, *folders):
        return any(self.path.startswith(folder + "/") for folder in folders)

    def bare_code(self):
        """The code with comments and literals blanked, on the same lines as before."""

        def blank(match):
            found = match.group()
            if found[0] == "/":
                return re.sub(r"[^\n]", " ", found)
            return '""' + "\n" * found.count("\n")

        return _COMMENT_OR_LITERAL.sub(blank, self.text)

    def includes(self):
        """Pairs of line number and included path. Scripts' imports are not among them."""
        for number, line in enumerate(self.lines, 1):
            match = re.match(r'\s*#\s*include\s*["<]([^">]+)[">]', line)
            if match and self.is_code:
                yield number, match.group(1)


def read_tree(root):
    """All text files of the tree below `root`, in a fixed order."""
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        for path in (Path(folder, name) for name in sorted(names)):
            if path.suffix in SUFFIXES or path.name in SCRIPT_NAMES:
                relative = path.relative_to(root).as_posix()
                files.append(SourceFile(relative, path.read_text(encoding="utf-8")))
    return files


def report(findings):
    """Prints the findings and ends the program: 1 if there are any."""
    findings = list(findings)
    for finding in findings:
        print(finding)
    sys.exit(1 if findings else 0)
