#!/usr/bin/env bash
# Builds the emulated driver: g++ and nothing else.   usage: kernels/emulator/build.sh LIBRARY
set -euo pipefail
library=${1:?usage: build.sh LIBRARY [-DMANY_ROWS]}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
native=-march=native
g++ $native -E -x c++ /dev/null >/dev/null 2>&1 || native=
flags=(-std=c++17 -O3 -fPIC -ffp-contract=off -fno-strict-aliasing -fvisibility=default -DEMULATED -Wno-attributes -Wno-psabi $native "${@:2}")
jobs=()
for source in kernels fibers driver; do g++ "${flags[@]}" -c "$here/$source.cpp" -o "$work/$source.o" & jobs+=($!); done
for job in "${jobs[@]}"; do wait "$job"; done
g++ -shared -pthread "$work"/*.o -o "$work/driver.so"
mv "$work/driver.so" "$library"
