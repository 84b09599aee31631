# SPDX-License-Identifier: Apache-2.0
"""Each checker of tools/ over small trees: the broken ones must be named by file and line, the sound
ones must pass."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
OPENING = "// SPDX-License-Identifier: Apache-2.0\n// From nothing to nothing.\n"


class CheckerTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def write_code(self, path, *lines):
        """Writes lines 3, 4, … below a proper opening."""
        self.write(path, OPENING + "".join(line + "\n" for line in lines))

    def run_checker(self, checker, *arguments):
        command = [sys.executable, "-B", TOOLS / f"check_{checker}.py", *(arguments or ["."])]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)

    def expect_pass(self, checker, *arguments):
        result = self.run_checker(checker, *arguments)
        self.assertEqual((result.stdout, result.stderr, result.returncode), ("", "", 0))

    def expect_finding(self, checker, place, *words, arguments=()):
        """Exactly one finding, at `place`, that holds `words`."""
        result = self.run_checker(checker, *arguments)
        self.assertEqual((result.stderr, result.returncode), ("", 1))
        self.assertEqual(len(result.stdout.splitlines()), 1, result.stdout)
        self.assertTrue(result.stdout.startswith(place + ": "), result.stdout)
        for word in words:
            self.assertIn(word, result.stdout)


class Includes(CheckerTest):
    def setUp(self):
        super().setUp()
        for folder in ("numeric", "core", "cpu", "cpu/simd", "gpu", "cuda", "hip", "api"):
            self.write_code(f"src/{folder}/own.hpp")
        self.write_code("include/steady/steady.h")
        self.write_code("support/files.hpp")

    def test_down_and_sideways_in_the_same_folder_is_allowed(self):
        self.write_code("src/core/a.hpp", '#include "own.hpp"', '#include "numeric/own.hpp"')
        self.write_code("src/cpu/simd/a.cpp", '#include "cpu/own.hpp"', "#include <vector>")
        self.write_code("src/api/a.cpp", '#include "cuda/own.hpp"', '#include "hip/own.hpp"')
        self.write_code("src/numeric/a.hpp", '#include "steady/steady.h"')
        self.write_code("cli/a.cpp", '#include "support/files.hpp"', "#include <steady/steady.h>")
        self.expect_pass("includes")

    def test_no_floor_includes_a_higher_one(self):
        self.write_code("src/numeric/a.hpp", '#include "core/own.hpp"')
        self.expect_finding("includes", "src/numeric/a.hpp:3", "src/core/own.hpp")

    def test_a_way_up_through_the_parent_folder_is_seen(self):
        self.write_code("src/core/a.hpp", '#include "../cpu/own.hpp"')
        self.expect_finding("includes", "src/core/a.hpp:3", "src/cpu/own.hpp")

    def test_angle_brackets_hide_nothing(self):
        self.write_code("src/core/a.hpp", "#  include <cpu/own.hpp>")
        self.expect_finding("includes", "src/core/a.hpp:3", "src/cpu/own.hpp")

    def test_cpu_never_sees_gpu(self):
        self.write_code("src/cpu/a.cpp", '#include "gpu/own.hpp"')
        self.expect_finding("includes", "src/cpu/a.cpp:3", "src/gpu/own.hpp")

    def test_cuda_never_sees_hip(self):
        self.write_code("src/cuda/a.cu", '#include "hip/own.hpp"')
        self.expect_finding("includes", "src/cuda/a.cu:3", "src/hip/own.hpp")

    def test_the_oracle_never_sees_the_simd_path(self):
        self.write_code("src/cpu/backend.cpp", '#include "cpu/simd/own.hpp"')
        self.write_code("src/cpu/a.cpp", '#include "cpu/simd/own.hpp"')
        self.expect_finding("includes", "src/cpu/a.cpp:3", "src/cpu/simd/own.hpp")

    def test_the_library_never_sees_support(self):
        self.write_code("src/core/a.hpp", '#include "support/files.hpp"')
        self.expect_finding("includes", "src/core/a.hpp:3", "support/files.hpp")

    def test_a_folder_without_a_floor_may_include_nothing(self):
        self.write_code("src/misc/a.hpp", '#include "core/own.hpp"')
        self.expect_finding("includes", "src/misc/a.hpp:3", "no floor")

    def test_users_see_only_the_public_headers(self):
        for folder in ("cli", "examples", "support", "tests/api", "tests/support"):
            with self.subTest(folder):
                self.write_code(f"{folder}/a.cpp", '#include "core/own.hpp"')
                self.expect_finding("includes", f"{folder}/a.cpp:3", "src/core/own.hpp")
                self.write_code(f"{folder}/a.cpp")

    def test_public_headers_include_only_public_headers(self):
        self.write_code("include/steady/a.h", '#include "core/own.hpp"')
        self.expect_finding("includes", "include/steady/a.h:3", "src/core/own.hpp")

    def test_vendor_headers_stay_in_their_folders(self):
        for header in ("cuda_runtime.h", "hip/hip_runtime.h", "cutlass/cutlass.h"):
            with self.subTest(header):
                self.write_code("src/cuda/a.cu", f"#include <{header}>")
                self.write_code("src/core/a.hpp", f"#include <{header}>")
                self.expect_finding("includes", "src/core/a.hpp:3", header)

    def test_torch_has_its_files(self):
        self.write("python/steady/torch.py", "import torch\n")
        self.write("python/steady/_operators.py", "import torch\n")
        self.write("python/tests/test_a.py", "import torch\n")
        self.write("python/steady/engine.py", "import os\nfrom torch import Tensor\n")
        self.expect_finding("includes", "python/steady/engine.py:2", "torch")


class Words(CheckerTest):
    def test_sound_code_passes(self):
        self.write_code("src/api/registry.cpp", 'const char* chosen = std::getenv("STEADY_BACKEND");')
        self.write_code("cli/main.cpp", 'int main() { std::printf("%d", on_exit); }')
        self.write_code("src/cuda/ptx/copy.cuh", 'asm volatile("");')
        self.write_code("src/core/a.cpp", "// abort(), TO" "DOS", "float largest = 448.0f;")
        self.write_code("include/steady/cache_format.h", "#define STEADY_NOPE_DIM 448")
        self.write("cli/CMakeLists.txt", "# SPDX-License-Identifier: Apache-2.0\nadd_library(a)\n")
        self.write("run", "#!/usr/bin/env bash\n# SPDX-License-Identifier: Apache-2.0\n# One verb.\n")
        self.expect_pass("words")

    def test_the_library_neither_prints_nor_ends_the_process(self):
        for call in ("std::abort()", "exit (1)", "fprintf(file, text)", "snprintf(text, 9)", "std::cerr"):
            with self.subTest(call):
                self.write_code("src/core/a.cpp", "", f"  {call};")
                self.expect_finding("words", "src/core/a.cpp:4", "the library")

    def test_only_the_registry_reads_the_environment(self):
        self.write_code("src/cpu/a.cpp", 'auto x = getenv("X");')
        self.expect_finding("words", "src/cpu/a.cpp:3", "src/api/registry.cpp")

    def test_assembly_stays_in_its_folders(self):
        self.write_code("src/cpu/a.cpp", 'asm volatile("nop");')
        self.expect_finding("words", "src/cpu/a.cpp:3", "ptx/")

    def test_layout_numbers_have_one_home(self):
        for folder in ("include/steady", "src/core", "cli", "support", "examples", "bench"):
            with self.subTest(folder):
                self.write_code(f"{folder}/a.cpp", "int bytes = page_tokens*576u;  // not 584")
                self.expect_finding("words", f"{folder}/a.cpp:3", "576", "cache_format.h")
                self.write_code(f"{folder}/a.cpp")

    def test_a_source_file_opens_with_its_licence(self):
        self.write("cli/a.cpp", "// From nothing to nothing.\n")
        self.expect_finding("words", "cli/a.cpp:1", "SPDX-License-Identifier: Apache-2.0")

    def test_a_source_file_says_what_it_does(self):
        self.write("cmake/a.cmake", "# SPDX-License-Identifier: Apache-2.0\nset(x 1)\n")
        self.expect_finding("words", "cmake/a.cmake:2", "what goes in")

    def test_nothing_is_left_unfinished(self):
        self.write("docs/a.md", "one\nTO" "DO: two\n")
        self.expect_finding("words", "docs/a.md:2", "finish it")

    def test_no_path_of_one_machine(self):
        self.write("docs/a.md", "see docs/work/x\nsee /ho" "me/me/x\n")
        self.expect_finding("words", "docs/a.md:2", "one machine")


class Lengths(CheckerTest):
    @staticmethod
    def function(head, lines):
        return [head + " {", *["  step();"] * (lines - 2), "}"]

    def test_files_and_functions_at_the_limit_pass(self):
        self.write_code("src/core/a.cpp", *self.function("void f()", 60), *["int x;"] * 238)
        self.write_code("tests/a.cpp", *["int x;"] * 398)
        self.write_code("src/cuda/a.cu", *self.function("__global__ void f()", 250))
        self.expect_pass("lengths")

    def test_a_long_file_is_found(self):
        self.write_code("src/core/a.cpp", *["int x;"] * 299)
        self.expect_finding("lengths", "src/core/a.cpp:301", "301 lines", "300")

    def test_a_long_file_may_say_why(self):
        self.write_code("src/core/a.cpp", "// Longer than 300 lines: a table.", *["int x;"] * 299)
        self.expect_pass("lengths")

    def test_long_functions_are_found_whatever_stands_before_the_body(self):
        heads = (
            "void wanted(int x = {}) noexcept",
            "template <class T, class U = A<T>> auto wanted(T t) const -> U",
            "Type::wanted(int x) : a{x}, b(x)",
            "TEST(wanted, works)",
        )
        for head in heads:
            with self.subTest(head):
                lines = ["namespace a {", "struct B { int c{3}; };", *self.function(head, 61), "}"]
                self.write_code("src/core/a.cpp", *lines)
                self.expect_finding("lengths", "src/core/a.cpp:5", "61 lines")

    def test_a_method_counts_from_its_own_first_line(self):
        lines = ["struct alignas(16) A {", " public:", *self.function("void f()", 61), "};"]
        self.write_code("src/core/a.hpp", *lines)
        self.expect_finding("lengths", "src/core/a.hpp:5", "f has 61 lines")

    def test_long_tables_and_classes_are_no_functions(self):
        self.write_code("src/core/a.cpp", "struct A {", *["  int f() const;"] * 70, "};")
        self.write_code("src/core/b.cpp", "const int a[] = {", *["  1,"] * 70, "};")
        self.expect_pass("lengths")

    def test_braces_in_literals_and_comments_do_not_count(self):
        body = ["  f(\"}\", '}');  // }", "  int x = 1'000;  /* } */", *["  g();"] * 56]
        self.write_code("src/core/a.cpp", "void f() {", *body, "}", "", "int y;")
        self.expect_pass("lengths")
        self.write_code("src/core/a.cpp", "void f() {", *body, "  g();", "}")
        self.expect_finding("lengths", "src/core/a.cpp:3", "f has 61 lines")

    def test_long_python_functions_are_found(self):
        self.write("tools/a.py", "def f():\n" + "    g()\n" * 60)
        self.expect_finding("lengths", "tools/a.py:1", "f has 61 lines")


class Snippets(CheckerTest):
    def setUp(self):
        super().setUp()
        self.write_code("examples/a.c", "int main() {", "  first();", "", "  second();", "}")

    def test_lines_of_an_example_pass_at_any_indent(self):
        self.write("README.md", "```c\nfirst();\nsecond();\n```\n\n```sh\nanything\n```\n")
        self.expect_pass("snippets")

    def test_lines_of_no_example_are_found(self):
        self.write("README.md", "# A\n\n```cpp\nfirst();\nthird();\n```\n")
        self.expect_finding("snippets", "README.md:3", "examples/")

    def test_python_is_held_to_the_tests_of_the_package(self):
        self.write("python/tests/test_a.py", "def test_a():\n    first()\n    second()\n")
        self.write("README.md", "```python\nfirst()\nsecond()\n```\n")
        self.expect_pass("snippets")
        self.write("README.md", "```python\nsecond()\nfirst()\n```\n")
        self.expect_finding("snippets", "README.md:1", "python/tests/")

    def test_marked_blocks_of_the_documents_are_checked(self):
        block = "```c\nthird();\n```\n"
        self.write("docs/a.md", block)
        self.expect_pass("snippets")
        self.write("docs/a.md", "<!-- tested -->\n" + block)
        self.expect_finding("snippets", "docs/a.md:2", "examples/")


class Exports(CheckerTest):
    def setUp(self):
        super().setUp()
        self.write("include/steady/a.h", "\n#define API STEADY_API\nSTEADY_API void steady_a(void);\n")

    def check(self, source):
        self.write("a.c", source)
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-shared", "-fPIC", "a.c", "-o", "a.so"], cwd=self.root, check=True)
        return (os.environ.get("NM", "nm"), "a.so", "include")

    def test_the_declared_functions_pass(self):
        self.expect_pass("exports", *self.check("void steady_a(void) {}\nstatic void b(void) {}"))

    def test_a_stray_export_is_found(self):
        arguments = self.check("void steady_a(void) {}\nvoid b(void) {}")
        self.expect_finding("exports", "a.so:0", "exports b", arguments=arguments)

    def test_a_missing_export_is_found(self):
        arguments = self.check("static void steady_a(void) {}")
        place = "include/steady/a.h:3"
        self.expect_finding("exports", place, "steady_a", arguments=arguments)


if __name__ == "__main__":
    unittest.main()
