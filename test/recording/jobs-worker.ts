import { appendFileSync, existsSync, openSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type MessagePort, parentPort, threadId, workerData } from 'node:worker_threads';
import type { indexRecording } from '../../src/recording/indexer.ts';
import { type JobRequest, serveJobs } from '../../src/recording/job-runner.ts';
import { guardWith } from './guard.ts';

/*
 * The thread's entry for the jobs' test: the real runner with an indexer that does what the file's name says, and a
 * lock that a name with `locked` in it has. It writes what it indexes into `log`, in order.
 */
const pause = new Int32Array(new SharedArrayBuffer(4));

const index = (...[path, options]: Parameters<typeof indexRecording>): ReturnType<typeof indexRecording> => {
  const name = basename(path);
  appendFileSync(join(dirname(path), 'log'), `${name}\n`);
  writeFileSync(`${path}.started`, '');
  if (name.startsWith('wait')) while (!existsSync(`${path}.go`)) Atomics.wait(pause, 0, 0, 1);
  if (name.startsWith('exit')) process.exit(3);
  if (name.startsWith('memory')) for (const all: number[][] = []; ; ) all.push(new Array<number>(1e6).fill(0.5));
  if (name.startsWith('disk')) throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
  if (name.startsWith('read')) {
    for (const fd = openSync(path, 'r'); ; ) options?.fs?.readSync(fd, Buffer.alloc(1), 0, 1, 0);
  }
  return { state: 'indexed', entries: threadId, bytes: 0 } as ReturnType<typeof indexRecording>;
};

const port = parentPort!;
const crashing = {
  on: (name: 'message', listener: (request: JobRequest) => void) =>
    port.on(name, (request: JobRequest) => {
      if (request.kind === 'index' && request.path.endsWith('crash')) throw new Error('a bug');
      listener(request);
    }),
  postMessage: (reply: unknown) => port.postMessage(reply),
  close: () => port.close(),
} as MessagePort;
const guard = guardWith((path) => basename(path).includes('locked'));
serveJobs(crashing, workerData, { guard: { ...guard, tryLockShared: guard.tryLock }, index });
