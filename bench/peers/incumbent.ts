import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  cpSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { CookieSealer } from '../../src/auth/cookie.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { systemClock } from '../../src/core/clock.ts';
import { cacheFolder } from '../build.ts';
import { incumbentConfig } from './incumbent-config.ts';
import { fetchIncumbent, incumbentProgram } from './incumbent-fetch.ts';
import { type Peer, type RunningPeer, startRelay } from './peer.ts';
import { RecordingFolder, recordingsUnavailable } from './recordings.ts';

const userid = 'user//bench';
/**
 * What has it record a session: a protocol of its list (2: desktop) on both halves, and that they name a device. The
 * empty one will do; any other must be in its database.
 */
const recordedQuery = '&p=2&nodeid=';

/** What all runs start from: its account, its login key, its certificates. Made once, with its own commands. */
interface Installation {
  readonly dataDir: string;
  readonly key: LoginKey;
}

const command = (dataDir: string): string[] => [
  process.execPath,
  incumbentProgram(),
  '--datapath',
  dataDir,
  '--filespath',
  join(dataDir, 'files'),
];

function run(dataDir: string, ...parameters: string[]): string {
  const [program, ...first] = command(dataDir);
  const { status, error, stdout, stderr } = spawnSync(program!, [...first, ...parameters], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  if (status !== 0) throw new Error(`meshcentral ${parameters[0]}: ${error?.message ?? stderr}`);
  return stdout.trim();
}

/** A port that was free just now. It is told its port and cannot be asked to choose one. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

function configure(dataDir: string, port: number, recordingDir?: string): void {
  writeFileSync(join(dataDir, 'config.json'), JSON.stringify(incumbentConfig(port, recordingDir), undefined, 2));
}

/** `HTTP server running on port N.`, which it prints once it listens. */
export function incumbentPort(line: string): number | undefined {
  const port = /HTTP server running on port (\d+)/.exec(line)?.[1];
  return port === undefined ? undefined : Number(port);
}

/** The process that relays: the program starts itself a second time and only looks after that. Its `serverstate.txt`. */
export function relayingPid(state: string): number | undefined {
  const pid = /^server-pid=(\d+)\s*$/m.exec(state)?.[1];
  return pid === undefined ? undefined : Number(pid);
}

async function serve(cpu: number | undefined, dataDir: string) {
  rmSync(join(dataDir, 'serverstate.txt'), { force: true });
  return startRelay(cpu, command(dataDir), {}, { folder: dataDir, readPort: incumbentPort, group: true });
}

async function install(): Promise<Installation> {
  const dataDir = join(cacheFolder, 'incumbent', 'bench-data');
  const keyFile = join(dataDir, 'login-key');
  if (!existsSync(keyFile)) {
    const fresh = mkdtempSync(`${dataDir}.`);
    try {
      configure(fresh, await freePort());
      const key = run(fresh, '--loginTokenKey');
      run(fresh, '--createaccount', userid, '--pass', randomBytes(16).toString('base64url'));
      await (await serve(undefined, fresh)).stop(); // makes its certificates, some seconds of RSA
      writeFileSync(join(fresh, 'login-key'), key);
      renameSync(fresh, dataDir);
    } finally {
      rmSync(fresh, { recursive: true, force: true });
    }
  }
  return { dataDir, key: LoginKey.readFile(keyFile) };
}

const stateLimitMs = 5000;
const pollMs = 10;

/** It writes its state about when it prints its port. */
async function readRelayingPid(dataDir: string): Promise<number> {
  const deadline = systemClock.nowMs() + stateLimitMs;
  for (;;) {
    const file = join(dataDir, 'serverstate.txt');
    const pid = existsSync(file) ? relayingPid(readFileSync(file, 'utf8')) : undefined;
    if (pid !== undefined) return pid;
    if (systemClock.nowMs() > deadline) throw new Error('meshcentral did not tell the pid of its server');
    await setTimeout(pollMs);
  }
}

const endText = 'MeshCentralMCREC';
const endLimitMs = 60_000;
const endPollMs = 100;

function ended(path: string): boolean {
  const tail = Buffer.alloc(endText.length);
  const fd = openSync(path, 'r');
  try {
    readSync(fd, tail, 0, tail.length, Math.max(0, fstatSync(fd).size - tail.length));
  } finally {
    closeSync(fd);
  }
  return tail.toString('latin1') === endText;
}

/**
 * It ends a recording some five seconds after its session, and ends itself at once when it is told to. A recording that
 * stays without an end is left to `RecordingFolder.check`.
 */
async function recordingsEnded(folder: string): Promise<void> {
  const deadline = systemClock.nowMs() + endLimitMs;
  const files = readdirSync(folder).filter((name) => name.endsWith('.mcrec'));
  while (!files.every((name) => ended(join(folder, name))) && systemClock.nowMs() < deadline) {
    await setTimeout(endPollMs);
  }
}

async function start(cpu: number | undefined, recordings?: RecordingFolder): Promise<RunningPeer> {
  const { dataDir, key } = await install();
  const data = mkdtempSync(join(tmpdir(), 'couplet-bench-incumbent-'));
  const remove = (): void => {
    process.off('exit', remove);
    rmSync(data, { recursive: true, force: true });
  };
  process.once('exit', remove);
  let relay: Awaited<ReturnType<typeof serve>> | undefined;
  try {
    cpSync(dataDir, data, { recursive: true });
    configure(data, await freePort(), recordings?.path);
    relay = await serve(cpu, data);
    const pid = await readRelayingPid(data);
    const query = recordings === undefined ? '' : recordedQuery;
    const sealer = new CookieSealer(key, systemClock);
    const user = sealer.seal({ userid, domainid: '' });
    const device = sealer.seal({ ruserid: userid });
    const { port, stop } = relay;
    let stopped: Promise<void> | undefined;
    const stopOnce = async (): Promise<void> => {
      if (recordings !== undefined) await recordingsEnded(recordings.path);
      await stop().finally(remove);
    };
    return {
      pid,
      port,
      userPath: `/meshrelay.ashx?auth=${user}&id=bench-{pair}&browser=1${query}`,
      devicePath: `/meshrelay.ashx?rauth=${device}&id=bench-{pair}${query}`,
      stop: () => {
        stopped ??= stopOnce();
        return stopped;
      },
    };
  } catch (error) {
    await relay?.stop();
    remove();
    throw error;
  }
}

/** MeshCentral's own server, as fast as its configuration allows: plain HTTP and no recording. */
export const incumbentPeer: Peer = {
  name: 'incumbent',
  unavailable: () => fetchIncumbent(),
  start: (cpu) => start(cpu),
};

/**
 * The same with its session recording. With several messages of a half under way it reorders them while it records (64
 * at 64 B, 32 at 1 KiB, at full speed).
 */
export const incumbentRecordedPeer: Peer = {
  name: 'incumbent-recorded',
  reorders: true,
  unavailable: () => recordingsUnavailable() ?? fetchIncumbent(),
  start: async (cpu) => {
    const recordings = new RecordingFolder();
    try {
      return { ...(await start(cpu, recordings)), recordings };
    } catch (error) {
      recordings.remove();
      throw error;
    }
  },
};
