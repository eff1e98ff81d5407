#!/usr/bin/env bash
# `npm run torture`: the slow tests whole. `npm test` runs bounded versions of the same files. About an hour.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/test-services
npm run --silent build
npm exec -- node-gyp --loglevel=error build
# Ten minutes of the C++ fuzzer, then the random suites with many times their rounds; every seed is printed.
COUPLET_FUZZ_SECONDS=600 COUPLET_FUZZ_RUNS=100000000 scripts/native-tests.sh
COUPLET_TEST_ROUNDS=600 COUPLET_TEST_CONNECTIONS=10000 COUPLET_TEST_FILE_LIMIT_MS=3600000 exec node scripts/run-tests.mjs \
  test/e2e/differential.test.ts test/e2e/flow-control.test.ts test/fuzz/*.test.ts test/relay/*.test.ts \
  test/e2e/recording.test.ts test/e2e/recording-crash.test.ts test/e2e/forward-wear.test.ts \
  test/e2e/across-servers.test.ts test/e2e/across-comings.test.ts test/e2e/cluster-proof.test.ts test/e2e/cluster-under-faults.test.ts \
  test/cluster/rendezvous-model.test.ts "$@"
