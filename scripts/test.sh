#!/usr/bin/env bash
# `npm test`: services, build, lint, types, then every test. Ends with the test runner's own summary line.
# With arguments (test files) only those are run, after the same build.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/test-services
npm run --silent build
[ -f build/config.gypi ] || npm exec -- node-gyp --loglevel=error configure
npm exec -- node-gyp --loglevel=error build
npm run --silent lint
npm run --silent typecheck
exec node scripts/run-tests.mjs "$@"
