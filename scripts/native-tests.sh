#!/usr/bin/env bash
# Tests of the C++ alone: unit tests under ASan and UBSan, those of the recorder and its threads under TSan as well,
# then libFuzzer on the frame parser against its reference, and on the recorder against what was recorded.
#   COUPLET_FUZZ_SECONDS  how long to fuzz at most (20), half of it each; 0: unit tests only
#   COUPLET_FUZZ_RUNS     how many inputs to try on the frame parser at most (1000000), and a tenth on the recorder
#   COUPLET_TEST_SEED     repeats the unit tests' and the fuzzers' random numbers
#   CXX                   the compiler of the unit tests (g++, else clang++); the fuzzers need clang++
# What is built lies in build/native-tests; an input that fails is kept there, and its file runs it again:
#   build/native-tests/fuzz-frame build/native-tests/frame-crash-…
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/native-tests
seconds=${COUPLET_FUZZ_SECONDS:-20}
runs=${COUPLET_FUZZ_RUNS:-1000000}
flags='-std=c++20 -g -O1 -Wall -Wextra -Werror -fno-omit-frame-pointer -fno-sanitize-recover=all -pthread'
if [ -z "${CXX:-}" ]; then CXX=$(command -v g++ || command -v clang++) || CXX=c++; fi
recorder=(native/{clock,recording,recorder,recorder_lane,recorder_write,recorder_open,recorder_sync,file_lock}.cc)
threads=(native/test/{main,write_queue_test}.cc native/test/recorder*_test.cc)

# compile NAME COMPILER SOURCES…: prints one command for each source, whose object NAME's folder takes.
compile() {
  local name=$1 compiler=$2 source
  shift 2
  mkdir -p "$out/$name.o"
  for source in "$@"; do echo "$compiler $flags -c $source -o $out/$name.o/$(basename "$source" .cc).o"; done
}

if [ "$seconds" != 0 ] && ! command -v clang++ >/dev/null; then
  echo "native-tests: the fuzzers need clang++ with libFuzzer; scripts/test-services says how to get it" >&2
  exit 1
fi
rm -rf "$out"/*.o
{
  compile unit "$CXX -fsanitize=address,undefined" native/test/*.cc native/out_queue.cc "${recorder[@]}"
  compile unit-threads "$CXX -fsanitize=thread" "${threads[@]}" "${recorder[@]}"
  if [ "$seconds" != 0 ]; then
    compile seeds clang++ native/fuzz/seeds.cc
    compile fuzz-frame 'clang++ -O2 -fsanitize=fuzzer,address,undefined' native/fuzz/frame_fuzz.cc
    compile fuzz-recorder 'clang++ -fsanitize=fuzzer,address,undefined' native/fuzz/recorder_fuzz.cc "${recorder[@]}"
  fi
} | xargs -P "$(nproc)" -I{} bash -c '{}'
"$CXX" -fsanitize=address,undefined -pthread "$out"/unit.o/*.o -o "$out/unit"
"$CXX" -fsanitize=thread -pthread "$out"/unit-threads.o/*.o -o "$out/unit-threads"
"$out/unit"
"$out/unit-threads"

[ "$seconds" != 0 ] || exit 0
clang++ "$out"/seeds.o/*.o -o "$out/seeds"
for fuzzer in frame recorder; do
  clang++ -fsanitize=fuzzer,address,undefined -pthread "$out/fuzz-$fuzzer.o"/*.o -o "$out/fuzz-$fuzzer"
done
rm -rf "$out"/corpus-*
"$out/seeds" "$out/corpus-frame" "$out/corpus-recorder"
# libFuzzer names its own seed, and takes 0 for a random one.
fuzz() {
  local name=$1
  shift
  "$out/fuzz-$name" -seed="${COUPLET_TEST_SEED:-0}" -max_total_time="$(((seconds + 1) / 2))" -timeout=10 \
    -entropic_scale_per_exec_time=1 -print_final_stats=1 -artifact_prefix="$out/$name-" "$@" "$out/corpus-$name"
}
fuzz frame -max_len=1024 -runs="$runs"
# Its files are of the memory where that is to be had: it makes thousands in a second.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
# Leaks are looked for by the unit tests: between two inputs its threads hold what differs from one to the other.
fuzz recorder -max_len=512 -detect_leaks=0 -runs="$((runs / 10))"
