#!/usr/bin/env bash
# Tests of the C++ alone, under ASan and UBSan: unit tests, then libFuzzer on the frame parser against its reference.
#   COUPLET_FUZZ_SECONDS  how long to fuzz at most (20); 0: unit tests only
#   COUPLET_FUZZ_RUNS     how many inputs to try at most (1000000)
#   COUPLET_TEST_SEED     repeats the unit tests' and the fuzzer's random numbers
#   CXX                   the compiler of the unit tests (g++, else clang++); the fuzzer needs clang++
# What is built lies in build/native-tests; an input that fails is kept there, and its file runs it again:
#   build/native-tests/fuzz build/native-tests/crash-…
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/native-tests
seconds=${COUPLET_FUZZ_SECONDS:-20}
runs=${COUPLET_FUZZ_RUNS:-1000000}
flags=(-std=c++20 -g -Wall -Wextra -Werror -fno-omit-frame-pointer -fno-sanitize-recover=all)
if [ -z "${CXX:-}" ]; then CXX=$(command -v g++ || command -v clang++) || CXX=c++; fi

mkdir -p "$out"
"$CXX" "${flags[@]}" -O1 -fsanitize=address,undefined native/test/*.cc native/out_queue.cc -o "$out/unit"
"$out/unit"

[ "$seconds" != 0 ] || exit 0
if ! command -v clang++ >/dev/null; then
  echo "native-tests: the fuzzer needs clang++ with libFuzzer; scripts/test-services says how to get it" >&2
  exit 1
fi
clang++ "${flags[@]}" -O2 -fsanitize=fuzzer,address,undefined native/fuzz/frame_fuzz.cc -o "$out/fuzz"
clang++ "${flags[@]}" native/fuzz/seeds.cc -o "$out/seeds"
rm -rf "$out/corpus"
"$out/seeds" "$out/corpus"
# libFuzzer names its own seed, and takes 0 for a random one.
exec "$out/fuzz" -seed="${COUPLET_TEST_SEED:-0}" -max_total_time="$seconds" -runs="$runs" -max_len=1024 -timeout=10 \
  -entropic_scale_per_exec_time=1 -print_final_stats=1 -artifact_prefix="$out/" "$out/corpus"
