#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compiles each public header alone, with all warnings: INCLUDE_FOLDER PATTERN COMPILER…
set -eu
include=$1 pattern=$2
shift 2
# shellcheck disable=SC2086  # the pattern is to be expanded
for header in "$include"/steady/$pattern; do
  "$@" -pedantic -Wall -Wextra -Wshadow -Wconversion -Werror -fsyntax-only -I "$include" "$header"
done
