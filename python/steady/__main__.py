# SPDX-License-Identifier: Apache-2.0
"""The arguments of `python -m steady` in, the program that the package brings along out."""

import os
import sys
from pathlib import Path


def main():
    """Becomes the program, so that output, signals and exit codes are its own."""
    program = Path(__file__).parent / "bin" / "steady"
    os.execv(program, ["steady", *sys.argv[1:]])


if __name__ == "__main__":
    main()
