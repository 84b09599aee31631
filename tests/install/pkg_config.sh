#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# From an installed Steady to a program that pkg-config found it for: LIBDIR SOURCE PROGRAM COMPILER…
set -eu
libdir=$1 source=$2 program=$3
shift 3
export PKG_CONFIG_PATH="$libdir/pkgconfig"
# shellcheck disable=SC2046  # pkg-config prints several words
"$@" "$source" -o "$program" $(pkg-config --cflags --libs steady)
LD_LIBRARY_PATH="$libdir" "$program"
