import { parentPort, workerData } from 'node:worker_threads';
import { indexRecording } from './indexer.ts';
import { serveJobs } from './job-runner.ts';
import { systemGuard, systemSharedLock } from './locks.ts';

/** The entry of the thread that {@link RecordingJobs} starts: nothing else runs in it and nothing waits for it. */
if (parentPort === null) throw new Error('this file is the entry of a worker thread');
const guard = { ...(await systemGuard()), tryLockShared: await systemSharedLock() };
serveJobs(parentPort, workerData as Int32Array, { guard, index: indexRecording });
