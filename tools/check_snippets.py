# SPDX-License-Identifier: Apache-2.0
"""Checks that the code a document shows stands, line for line, in a file that the tests build or run:
each C, C++, CMake and Python block of README.md, and each block of docs/ that follows
`<!-- tested -->`. Usage: check_snippets.py [ROOT]"""

import re
import sys

from source_tree import Finding, read_tree, report

BLOCK = re.compile(r"^```(c|cpp|c\+\+|cmake|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TESTED_FOLDERS = ("examples", "tests", "python/tests")
MARK = re.compile(r"<!-- tested -->\s*\Z")


def trimmed(text):
    """The lines that hold something, without the space around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def stands_in(block, lines):
    length = len(block)
    return any(lines[i : i + length] == block for i in range(len(lines) - length + 1))


def findings(root):
    files = read_tree(root)
    tested = [trimmed(file.text) for file in files if file.is_under(*TESTED_FOLDERS)]
    for file in files:
        is_readme = file.path == "README.md"
        if file.suffix != ".md" or not (is_readme or file.is_under("docs")):
            continue
        for match in BLOCK.finditer(file.text):
            if not is_readme and not MARK.search(file.text[: match.start()]):
                continue
            block = trimmed(match[2])
            if not any(stands_in(block, lines) for lines in tested):
                line = file.text.count("\n", 0, match.start()) + 1
                allowed = " or ".join(folder + "/" for folder in TESTED_FOLDERS)
                message = f"the lines of this {match[1]} block stand in no file of {allowed}"
                yield Finding(file.path, line, message)


if __name__ == "__main__":
    report(findings(sys.argv[1] if len(sys.argv) > 1 else "."))
