// SPDX-License-Identifier: Apache-2.0
// A command line in, a run of it by the shell with its output caught in files out.
#include "tests/cli/program.hpp"

#include <sys/wait.h>

#include <cstdlib>

#include "tests/cli/temporary_file.hpp"

namespace steady::test {
namespace {

std::string command(const std::string& arguments, const std::string& environment) {
  return "env -u NO_COLOR -u STEADY_BACKEND TERM=xterm " + environment + " " +
         shell_word(STEADY_PROGRAM) + " " + arguments;
}

int exit_code(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

}  // namespace

std::string shell_word(const std::string& path) { return "'" + path + "'"; }

Outcome run_steady(const std::string& arguments, const std::string& environment) {
  const TemporaryFile out, err;
  // A redirection among the arguments comes first.
  const std::string redirected = "{ " + command(arguments, environment) + "; } >" +
                                 shell_word(out.path()) + " 2>" + shell_word(err.path());
  const int code = exit_code(std::system(redirected.c_str()));
  return {code, read_file(out.path()), read_file(err.path())};
}

Outcome run_steady_on_terminal(const std::string& arguments, const std::string& environment) {
  const TemporaryFile script, out;
  script.write("exec " + command(arguments, environment) + "\n");
  const std::string on_terminal =
      "script -qec 'sh " + script.path() + "' /dev/null </dev/null >" + shell_word(out.path());
  const int code = exit_code(std::system(on_terminal.c_str()));
  return {code, read_file(out.path()), ""};
}

}  // namespace steady::test
