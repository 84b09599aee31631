# SPDX-License-Identifier: Apache-2.0
"""Runs a CUDA compiler, and keeps what ptxas tells of each kernel in OBJECT.resources.
Usage: keep_resources.py NVCC [ARGUMENT…], as a compiler launcher of CMake"""

import subprocess
import sys


def main(command):
    compiles = "-c" in command
    if compiles:
        command = [*command, "-Xptxas=-v"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    told = done.stderr.splitlines(keepends=True)
    # ptxas's lines go on without a name of their own.
    from_ptxas = [line for line in told if line.startswith(("ptxas info", "    "))]
    sys.stderr.writelines(line for line in told if line not in from_ptxas)
    if compiles and done.returncode == 0:
        with open(command[command.index("-o") + 1] + ".resources", "w") as file:
            file.writelines(from_ptxas)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
