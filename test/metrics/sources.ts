import { outcomes } from '../../src/core/outcome.ts';
import type { MetricSources } from '../../src/metrics/sources.ts';

const noTotals = {
  bytesUserToDevice: 0,
  bytesDeviceToUser: 0,
  messagesUserToDevice: 0,
  messagesDeviceToUser: 0,
  flowPauses: 0,
  flowPausedSeconds: 0,
  bufferedBytes: 0,
};

/** Sources in which every counter has a value of its own; `counters` and `figures` may be changed between scrapes. */
export function busySources() {
  const counters = {
    halvesWaiting: 3,
    halvesPaired: 4,
    sessions: [
      { protocol: 1, recorded: false, count: 2 },
      { protocol: 1, recorded: true, count: 6 },
    ],
    sessionsTotal: new Map([
      [1, 7],
      [5, 1],
    ]),
    outcomes: { ...Object.fromEntries(outcomes.map((outcome) => [outcome, 0])), normal: 5 } as Record<
      (typeof outcomes)[number],
      number
    >,
    refused: new Map([['rate', 9]]),
    halfErrors: new Map([['reset', 2]]),
  };
  const native = {
    ...noTotals,
    bytesUserToDevice: 100,
    bytesDeviceToUser: 200,
    messagesUserToDevice: 30,
    messagesDeviceToUser: 40,
    flowPauses: 50,
    flowPausedSeconds: 6,
    bufferedBytes: 70,
  };
  const portable = {
    ...noTotals,
    bytesUserToDevice: 10,
    bytesDeviceToUser: 20,
    messagesUserToDevice: 3,
    messagesDeviceToUser: 4,
    flowPauses: 5,
    flowPausedSeconds: 0.5,
    bufferedBytes: 7,
  };
  const recording = {
    bytesWritten: 1_001,
    queueBytes: 1_002,
    assemblyBytes: 1_003,
    openFiles: 1_004,
    writeLatency: { boundsUs: [50, 2_500, 1_000_000], counts: [3, 4, 0, 2], sumUs: 2_500_250 },
    syncLatency: { boundsUs: [50, 2_500, 1_000_000], counts: [0, 0, 7, 0], sumUs: 750_000 },
    failures: { ENOSPC: 17, ENOBUFS: 18 } as Record<string, number>,
    startFailures: { ENOSPC: 1, 'start-timeout': 19 },
    finished: 1_005,
    salvaged: 1_006,
    deleted: { age: 21, count: 22, bytes: 23, orphan: 24 },
  };
  return {
    counters,
    figures: recording,
    recording: () => recording,
    relay: () => counters,
    forwarders: () => [
      { kind: 'native', totals: native },
      { kind: 'portable', totals: portable },
    ],
    throttledSeconds: () => 8.25,
    server: () => ({ pendingUpgrades: 12, listenerResting: true, listenerRests: 13 }),
    events: () => ({ events: new Map([['CPL-1001I', 14]]), sinkFailures: new Map([['json-lines', 15]]) }),
    devices: () => ({
      agentsOnline: 31,
      agentsPending: 32,
      agentsRefused: new Map([['join-code', 33]]),
      cacheEntries: 34,
      cacheHits: 35,
      cacheMisses: 36,
    }),
    cluster: () => ({
      servers: 41,
      isRedisUp: true,
      redisCommands: { ok: 42, timeout: 43, error: 44, refused: 45 },
      claims: 46,
      rendezvous: { claimed: 47 },
      conflicts: 48,
      linksOut: 49,
      linksIn: 50,
      bytesToPeer: 51,
      bytesFromPeer: 52,
      bufferedBytes: 53,
      linkFailures: new Map([['unreachable', 54]]),
      peersLost: 55,
      requests: new Map([['present ok', 56]]),
      clockOffsetSeconds: 57,
    }),
    droppedLogLines: () => 16,
  } satisfies MetricSources & { counters: unknown; figures: unknown };
}
