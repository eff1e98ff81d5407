import assert from 'node:assert/strict';
import { nothingYet } from '../../src/metrics/docs.ts';
import { createRelayMetrics } from '../../src/metrics/relay-metrics.ts';
import type { ForwardingTotals, MetricSources } from '../../src/metrics/sources.ts';
import { runSuite } from './suite.ts';

// A scrape stops the event loop, and with it every session that is set up meanwhile, for as long as it takes.

const build = { version: '0.0.0', nodeVersion: process.version };
const totals: ForwardingTotals = {
  bytesUserToDevice: 123_456_789_012,
  bytesDeviceToUser: 987_654_321_098,
  messagesUserToDevice: 1_234_567_890,
  messagesDeviceToUser: 9_876_543_210,
  flowPauses: 12_345,
  flowPausedSeconds: 678.9,
  bufferedBytes: 1_048_576,
};
const protocols = [1, 2, 5, 10, 200];
const durations = {
  boundsUs: Array.from({ length: 14 }, (_, index) => 50 * 2 ** index),
  counts: Array.from({ length: 15 }, (_, index) => index),
  sumUs: 1e9,
};
const nothing = nothingYet.relay();
const busy: MetricSources = {
  ...nothingYet,
  relay: () => ({
    ...nothing,
    halvesWaiting: 300,
    halvesPaired: 15_000,
    sessions: protocols.flatMap((protocol) => [true, false].map((recorded) => ({ protocol, recorded, count: 750 }))),
    sessionsTotal: new Map(protocols.map((protocol) => [protocol, 100_000])),
    refused: new Map(['bad-id', 'no-id', 'rate', 'cookie', 'origin'].map((reason) => [reason, 17])),
    halfErrors: new Map(['protocol', 'too-big', 'broken', 'vanished'].map((reason) => [reason, 17])),
  }),
  forwarders: () => [{ kind: 'native', totals }],
  events: () => ({
    events: new Map(Array.from({ length: 40 }, (_, index) => [`CPL-${1000 + index}I`, index])),
    sinkFailures: new Map([['file', 0]]),
  }),
  recording: () => ({
    bytesWritten: 1e12,
    queueBytes: 1e6,
    assemblyBytes: 0,
    openFiles: 100,
    writeLatency: durations,
    syncLatency: durations,
    failures: { ENOSPC: 1 },
    startFailures: {},
    finished: 1000,
    salvaged: 3,
    deleted: { age: 21, count: 22, bytes: 23, orphan: 24 },
  }),
};

const idle = createRelayMetrics(nothingYet, build);
const full = createRelayMetrics(busy, build);
assert.match((await full.scrape()).body, /^couplet_halves\{state="paired"\} 15000$/m);

await runSuite('metrics', {
  'scrape a relay that has done nothing': { settles: () => idle.scrape() },
  'scrape a busy relay': { settles: () => full.scrape() },
  'observe a pairing': () => full.observePairing(0.02),
});
