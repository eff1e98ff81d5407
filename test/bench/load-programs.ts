import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';
import type { LatencyBuckets } from '../../bench/latency.ts';
import type { LoadResult } from '../../bench/measure.ts';

export const noErrors = { order: 0, content: 0, protocol: 0, closed: 0, lost: 0 };

interface Micros {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** What the programs of bench/load print, those members that tests look at. */
export interface ProgramOutput {
  readonly seconds: number;
  readonly messages: number;
  readonly bytes: number;
  readonly generatorCpuSeconds: number;
  readonly relayCpuSeconds?: number;
  readonly roundTripMicros: Micros;
  readonly errors: LoadResult['errors'];
  // load
  readonly blasters: { readonly pairs: number; readonly messages: number; readonly bytes: number };
  // paced
  readonly rateReached: number;
  readonly behind: boolean;
  readonly waived: number;
  readonly latencyMicros: Micros;
  readonly sentLateMicros: Micros;
  readonly latencyNanos: LatencyBuckets;
  // slow
  readonly slowMessages: number;
  readonly allSlowMessages: number;
  readonly acceptedBytesPerSlowPair: { readonly min: number; readonly mean: number; readonly max: number };
  readonly relayCpuPercent: number;
  readonly relayResidentBytes: { readonly before: number; readonly after: number };
  readonly aloneRoundTripMicros: Micros;
}

export interface Target {
  readonly port: number;
  readonly userPath: string;
  readonly devicePath: string;
}

/** Runs a program to its end; `started` gets the process. Rejects where it prints nothing. */
export async function runProgram(
  program: string,
  target: Target,
  options: Readonly<Record<string, string | number>>,
  started: (child: ChildProcess) => void = () => undefined,
): Promise<{ readonly status: number | null; readonly output: ProgramOutput }> {
  const all = { port: target.port, 'user-path': target.userPath, 'device-path': target.devicePath, ...options };
  const parameters = Object.entries(all).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const child = spawn(program, parameters, { stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000 });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  started(child);
  const [status] = (await once(child, 'close')) as [number | null];
  if (stdout === '') throw new Error(`${program} ended with ${status}: ${stderr}`);
  return { status, output: JSON.parse(stdout) as ProgramOutput };
}

/** What a relay does to a message of either side; what it returns goes on. `from` is who sent it, `to` its mate. */
export type Tamper = (message: Buffer, fromUser: boolean, from: WebSocket, to: WebSocket) => readonly Buffer[];

/** A relay in this process. */
export async function startTampering(tamper: Tamper): Promise<Target & { readonly close: () => void }> {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false });
  const waiting = new Map<string, WebSocket>();
  server.on('connection', (device, request) => {
    const user = waiting.get(request.url!);
    if (user === undefined) return waiting.set(request.url!, device);
    for (const [from, to] of [
      [user, device],
      [device, user],
    ] as const) {
      from.on('message', (data: Buffer) => {
        for (const message of tamper(data, from === user, from, to)) to.send(message);
      });
    }
    for (const half of [user, device]) half.send('c');
  });
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const close = (): void => {
    for (const half of server.clients) half.terminate();
    server.close();
  };
  return { port, userPath: '/{pair}', devicePath: '/{pair}', close };
}

/** The ways in which it can go wrong, and the error that tells of it. */
export const faults: readonly [
  string,
  keyof LoadResult['errors'],
  (...args: Parameters<Tamper>) => readonly Buffer[],
][] = [
  ['a lost message', 'order', () => []],
  ['a repeated message', 'order', (message) => [message, message]],
  ['a shortened message', 'content', (message) => [message.subarray(0, -1)]],
  ['a changed tail', 'content', (message) => [Buffer.concat([message.subarray(0, -1), Buffer.of(0x33)])]],
  [
    'a half that is cut off',
    'closed',
    (message, _fromUser, from) => {
      from.terminate();
      return [message];
    },
  ],
];

/** Does `fault` to the n-th of the messages that `applies` to, and nothing to all others. */
export function onNth(n: number, applies: (message: Buffer, fromUser: boolean) => boolean, fault: Tamper): Tamper {
  let count = 0;
  return (message, fromUser, from, to) =>
    applies(message, fromUser) && ++count === n ? fault(message, fromUser, from, to) : [message];
}
