import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { freePort } from './processes.ts';
import { type QueryOptions, temporaryFolder, until } from './relay.ts';
import { type LogLine, readEvents, type ServeChild, type ServeOptions, startServe } from './serve.ts';
import { requireProgram } from './services.ts';

/** A Redis of the test's own on a free loopback port, ended with the test; `undefined` where there is no program. */
export async function startRedis(t: TestContext): Promise<string | undefined> {
  const program = requireProgram(t, 'redis-server');
  if (program === undefined) return undefined;
  const folder = temporaryFolder(t);
  const port = await freePort();
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no'];
  const child = spawn(program, args, { stdio: 'ignore' });
  const gone = new Promise<void>((resolve) => child.once('close', () => resolve()));
  t.after(async () => {
    child.kill('SIGKILL');
    await gone;
  });
  await until(() => answers(port), 'redis answers');
  return `redis://127.0.0.1:${port}`;
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port });
    const settle = (yes: boolean) => {
      socket.destroy();
      resolve(yes);
    };
    socket.once('error', () => settle(false));
    socket.once('data', (data) => settle(data.toString().startsWith('+PONG')));
    socket.write('PING\r\n');
  });
}

/** One worker as a test sees it. */
export interface WorkerSeen {
  readonly number: number;
  readonly pid: number;
  readonly address: string;
  url(side: 'user' | 'device', id: string, query?: QueryOptions): string;
}

/** A running `couplet serve --workers N`. */
export class WorkersChild {
  readonly serve: ServeChild;

  constructor(serve: ServeChild) {
    this.serve = serve;
  }

  /** Every start of worker `number` so far, in order. */
  starts(number: number): LogLine[] {
    return this.serve.lines.filter(({ msg, worker }) => msg === 'worker listening' && worker === number);
  }

  /** The newest process of a worker. */
  worker(number: number): WorkerSeen {
    const line = this.starts(number).at(-1)!;
    const address = String(line.address);
    return {
      number,
      pid: Number(line.pid),
      address,
      url: (side, id, query) => `ws://${address}${this.serve.path(side, id, query)}`,
    };
  }

  /** Waits until worker `number` listens for the `count`th time. */
  async started(number: number, count: number): Promise<WorkerSeen> {
    await until(() => this.starts(number).length >= count, `worker ${number} listens (${count})`, 30_000);
    return this.worker(number);
  }

  events(number: number) {
    return readEvents(join(this.serve.eventsDir, `worker-${number}`));
  }

  async metrics(): Promise<string> {
    const response = await fetch(`http://${this.serve.metricsAddress}/metrics`, { headers: { connection: 'close' } });
    return response.text();
  }
}

/** A sample of a scrape; 0 where it is not there. */
export function sample(text: string, name: string): number {
  const line = text.split('\n').find((line) => line.startsWith(`${name} `));
  return line === undefined ? 0 : Number(line.slice(name.length + 1));
}

/** Starts `count` workers, each on a free port of its own (`consecutive`) or all on one; they listen. */
export async function startWorkers(
  t: TestContext,
  redis: string,
  count: number,
  workerPorts: 'shared' | 'consecutive',
  options: ServeOptions = {},
): Promise<WorkersChild> {
  const serve = await startServe(t, { ...options, settings: workerSettings(redis, count, workerPorts, options) });
  const workers = new WorkersChild(serve);
  // Their lines come by another way than the news that they listen.
  for (let number = 1; number <= count; number++) await workers.started(number, 1);
  t.after(async () => {
    serve.signal('SIGKILL');
    await serve.exited;
    for (const pid of pidsOf(workers)) await until(() => !isAlive(pid), `process ${pid} is gone`, 30_000);
  });
  return workers;
}

export function workerSettings(
  redis: string,
  workers: number,
  workerPorts: 'shared' | 'consecutive',
  { settings = {} }: ServeOptions = {},
): NonNullable<ServeOptions['settings']> {
  return { ...settings, server: { workers, workerPorts, ...settings.server }, cluster: { redis, ...settings.cluster } };
}

/** Every process that was a worker. */
export function pidsOf({ serve }: WorkersChild): number[] {
  return serve.lines.filter(({ msg }) => msg === 'worker listening').map(({ pid }) => Number(pid));
}

/** Whether a process runs; one that has ended and was not waited for does not. */
export function isAlive(pid: number): boolean {
  const file = `/proc/${pid}/stat`;
  if (!existsSync(file)) return false;
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(file, 'latin1'));
  } catch {
    return false;
  }
}
