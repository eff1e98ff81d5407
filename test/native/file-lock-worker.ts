import { openSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import type { CoupletError } from '../../src/core/errors.ts';
import { tryLockFile } from '../../src/native/file-lock.ts';
import { recorderOpen } from '../../src/native/recorder-binding.ts';

/* The worker thread of file-lock.test.ts. */

const { path, flags, mode } = workerData as { path: string; flags: string; mode: 'shared' | 'exclusive' };
const locked = tryLockFile(openSync(path, flags), mode);
let refused = '';
try {
  recorderOpen('/', 'none');
} catch (error) {
  refused = (error as CoupletError).code;
}
parentPort?.postMessage({ locked, refused });
