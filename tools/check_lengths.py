# SPDX-License-Identifier: Apache-2.0
"""Checks that no file and no function outgrows the limits of docs/design.md. A file that says
"Longer than" and why in its first lines may be longer. Usage: check_lengths.py [ROOT]"""

import ast
import re
import sys

from source_tree import Finding, read_tree, report

KERNEL_SUFFIXES = {".cuh", ".cu", ".hip"}
KERNEL_FILE_LIMIT = 500
TEST_FILE_LIMIT = 400
FILE_LIMIT = 300
KERNEL_BODY_LIMIT = 250
FUNCTION_LIMIT = 60
EXCUSE_LINES = 6

DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.)*", re.MULTILINE | re.DOTALL)
ATTRIBUTE = re.compile(r"\b(?:alignas|__attribute__)\s*\((?:[^()]|\([^()]*\))*\)")
ACCESS = re.compile(r"\s*(?:(?:public|private|protected)\s*:(?!:)\s*)*")


def is_excused(file):
    return any("Longer than" in line for line in file.lines[:EXCUSE_LINES])


def file_limit(file):
    if file.suffix in KERNEL_SUFFIXES:
        return KERNEL_FILE_LIMIT
    return TEST_FILE_LIMIT if file.is_under("tests", "bench", "python/tests") else FILE_LIMIT


def cpp_functions(code):
    """The functions of bare C or C++ code, as (head, first line, lines). Goes by the braces: one
    that stands in no function opens one if a parameter list stands before it."""
    code = DIRECTIVE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), code)
    head_begin, depth = 0, 0  # depth: open braces of the function around
    for match in re.finditer(r"[{};]", code):
        end = match.end()
        if depth:
            depth += {"{": 1, "}": -1, ";": 0}[match.group()]
            if depth or re.match(r"\s*[,{)]", code[end:]):
                continue  # inside, or behind the braces of a member initialiser or an argument
            begin = head_begin + ACCESS.match(code[head_begin:]).end()
            first_line = code.count("\n", 0, begin) + 1
            yield code[begin:end], first_line, code.count("\n", begin, end) + 1
        elif match.group() == "{" and "(" in ATTRIBUTE.sub("", code[head_begin : end - 1]):
            depth = 1
            continue
        head_begin = end


def cpp_function_findings(file):
    for function, first_line, lines in cpp_functions(file.bare_code()):
        head = function.partition("{")[0]
        limit = KERNEL_BODY_LIMIT if "__global__" in head else FUNCTION_LIMIT
        if lines > limit:
            name = re.search(r"(operator[^\w\s]+|[\w:~]+)\s*\(", ATTRIBUTE.sub("", head))[1]
            yield Finding(file.path, first_line, f"{name} has {lines} lines; {limit} are allowed")


def python_function_findings(file):
    for node in ast.walk(ast.parse(file.text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LIMIT:
                message = f"{node.name} has {lines} lines; {FUNCTION_LIMIT} are allowed"
                yield Finding(file.path, node.lineno, message)


def findings(root):
    for file in read_tree(root):
        if not (file.is_code or file.is_script) or is_excused(file):
            continue
        lines, limit = len(file.lines), file_limit(file)
        if lines > limit:
            yield Finding(
                file.path,
                limit + 1,
                f"{lines} lines; {limit} are allowed unless the first {EXCUSE_LINES} lines say "
                "'Longer than …' and why",
            )
        if file.is_code:
            yield from cpp_function_findings(file)
        elif file.suffix == ".py":
            yield from python_function_findings(file)


if __name__ == "__main__":
    report(findings(sys.argv[1] if len(sys.argv) > 1 else "."))
