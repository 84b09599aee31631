# SPDX-License-Identifier: Apache-2.0
"""Checks that the shared library exports the functions of the public headers, all of them and
nothing else. Usage: check_exports.py NM LIBRARY INCLUDE_FOLDER"""

import re
import subprocess
import sys
from pathlib import Path

from source_tree import Finding, SourceFile, report

DECLARATION = re.compile(r"^STEADY_API\b[^;]*?\b(steady_\w+)\s*\(", re.MULTILINE)


def declared(include_folder):
    """Where each function of the C interface is declared: name to (header, line)."""
    places = {}
    for header in sorted(Path(include_folder).rglob("*.h")):
        code = SourceFile(header.as_posix(), header.read_text(encoding="utf-8")).bare_code()
        for match in DECLARATION.finditer(code):
            places[match[1]] = (header.as_posix(), code.count("\n", 0, match.start(1)) + 1)
    return places


def exported(nm, library):
    """The names that a program can link to in the library."""
    command = [nm, "--dynamic", "--defined-only", "--format=posix", library]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line.split()[0].partition("@")[0] for line in listing.splitlines()}


def findings(nm, library, include_folder):
    places, names = declared(include_folder), exported(nm, library)
    for name in sorted(names - places.keys()):
        yield Finding(library, 0, f"exports {name}, which no public header declares (STEADY_API)")
    for name in sorted(places.keys() - names):
        yield Finding(*places[name], f"declares {name}, which {library} does not export")


if __name__ == "__main__":
    report(findings(*sys.argv[1:4]))
