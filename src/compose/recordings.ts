import { opendir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Events } from '../audit/events.ts';
import type { RecordedSession } from '../audit/recording-fields.ts';
import type { Config } from '../config/schema.ts';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { ensureFolder } from '../core/lifecycle.ts';
import type { RecordingFigures } from '../metrics/sources.ts';
import { loadRecorder } from '../native/binding.ts';
import { recorderConfigure, recorderStatistics } from '../native/recorder-binding.ts';
import { RecordingJobs } from '../recording/jobs.ts';
import { type KnownParties, type RecordingMode, settingsOf } from '../recording/policy.ts';
import { SessionRecorder, type SessionSettings } from '../recording/recorder.ts';
import type { RetentionLimits } from '../recording/retention.ts';
import type { SalvageResult } from '../recording/salvage.ts';
import type { Session } from '../relay/session.ts';
import { recordingFolders, recordingOptions, retentionLimits } from './recording-settings.ts';

export interface RecordingsParts {
  /** The configuration in use. */
  readonly config: () => Config;
  readonly events: Events;
  readonly clock: Clock;
  /** Asks the directory, where there is one. */
  readonly parties: ((session: Session) => Promise<KnownParties>) | undefined;
  /** What writes the files, `couplet 1.2.3`. */
  readonly software: string;
  /** Whether retention is this server's: of several on the same folders one does it. */
  readonly sweeps: boolean;
  /** Something that is no event and should be looked into. */
  readonly onProblem: (error: Error, message: string) => void;
}

/** How often folders are looked at whether recordings can be made in them, milliseconds. */
const folderCheckMs = 5000;
/** How long the server's stop waits for the disk, milliseconds. */
const lastWriteMs = 20_000;
/** … for recordings that wait for their index, milliseconds … */
const lastIndexMs = 10_000;
/** … and for the threads that work on files, milliseconds. */
const lastJobMs = 5000;

/**
 * Everything about recording in a server: its recorder, its folders, what is done with files before and after. Where
 * nothing is recorded it costs nothing: threads are started by the first recording or job.
 */
export class Recordings {
  readonly recorder: SessionRecorder<Session>;
  readonly #parts: RecordingsParts;
  readonly #jobs: RecordingJobs;
  readonly #checks: RecordingJobs;
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #deleted = { age: 0, count: 0, bytes: 0, orphan: 0 };
  #salvaged = 0;
  #sweeping = false;
  #lastSweepMs = Number.NEGATIVE_INFINITY;
  #notReady = '';
  readonly #made = new Set<string>();
  #settings: { readonly of: Config; readonly are: SessionSettings } | undefined;
  #checking = false;
  /** Looks at the folders that were due while one was under way. */
  #unanswered = 0;

  /**
   * For a server that has no recorder [R40]: sessions must not run unrecorded without a word.
   * @throws CoupletError `CPL_NATIVE` where by this configuration sessions are to be recorded
   */
  static refuseWithout(config: Config): void {
    if (foldersInUse(config).length === 0) return;
    const loaded = loadRecorder();
    throw unavailable('error' in loaded ? loaded.error : 'it could not be started with the server');
  }

  /** @throws CoupletError `CPL_NATIVE` where sessions are to be recorded and the native recorder does not work here */
  static open(parts: RecordingsParts): Recordings | undefined {
    const needed = foldersInUse(parts.config()).length > 0;
    const { addon, ...rest } = loadRecorder();
    if (addon !== undefined) {
      try {
        return new Recordings(parts);
      } catch (error) {
        if (needed) throw error;
        return undefined; // a worker thread, where the recorder of the process cannot be used
      }
    }
    if (!needed) return undefined;
    throw unavailable('error' in rest ? rest.error : '');
  }

  private constructor(parts: RecordingsParts) {
    this.#parts = parts;
    const { flushMs, fsyncMs, maxQueueBytes, threads } = parts.config().recording;
    recorderConfigure({ threads, flushMs, fsyncMs, maxQueueBytes });
    const { events, clock, software, onProblem } = parts;
    const newJobs = () => new RecordingJobs({ onProblem: (error) => onProblem(error, 'a job on recordings failed') });
    this.#jobs = newJobs();
    this.#checks = newJobs();
    this.recorder = new SessionRecorder<Session>({
      settings: () => this.#sessionSettings(),
      ...(parts.parties && { parties: parts.parties }),
      observer: {
        started: (session, file, mode) => events.recordingStarted({ ...factsOf(session, mode), file }),
        failed: (session, { file, reason, mode, consequence }) =>
          events.recordingFailed({ ...factsOf(session, mode), file, reason, consequence }),
        finished: (session, { folder, file, bytes, complete, mode, index }) => {
          events.recordingFinished({ ...factsOf(session, mode), file, bytes, complete });
          if (index) void this.#index(join(folder, file));
        },
      },
      eventsDurable: () => events.flushDurable(),
      clock,
      software,
    });
  }

  // Asked at each session's start; made anew for a new configuration only.
  #sessionSettings(): SessionSettings {
    const config = this.#parts.config();
    if (this.#settings?.of !== config) {
      const { sidecar, startMs } = config.recording;
      this.#settings = { of: config, are: { ...recordingOptions(config), sidecar, startMs } };
    }
    return this.#settings.are;
  }

  /** Makes the folders, salvages what an earlier process left (R37) and starts the clocks. Making folders is all it waits for: the first session needs its folder. */
  start(): void {
    this.reconfigured();
    void this.#salvage();
    this.#timers.push(setInterval(() => void this.#checkFolders(), folderCheckMs).unref());
    if (this.#parts.sweeps) this.#timers.push(setInterval(() => void this.#sweepIfDue(), 1000).unref());
  }

  /**
   * Makes the folders that have come into use, at the start or by a reload. One that is gone later is not made again:
   * where a disk was to be mounted, its place would fill up instead.
   */
  reconfigured(): void {
    for (const folder of foldersInUse(this.#parts.config())) {
      if (this.#made.has(folder)) continue;
      try {
        ensureFolder(folder, 'recording.dir');
        this.#made.add(folder);
      } catch (error) {
        this.#notReady = 'the recordings folder cannot be made';
        this.#parts.onProblem(error as Error, 'a recordings folder could not be made');
      }
    }
    void this.#checkFolders();
  }

  /** Why sessions that are to be recorded cannot be, for `/readyz` (fault 33); empty where they can. */
  get notReady(): string {
    return this.#notReady;
  }

  figures(): RecordingFigures | undefined {
    // A counter that was there stays: it must not fall to 0 when recording is turned off.
    if (this.recorder.begun === 0 && foldersInUse(this.#parts.config()).length === 0) return undefined;
    const { failures: startFailures, finished } = this.recorder;
    return {
      ...recorderStatistics(),
      startFailures: Object.fromEntries(startFailures),
      finished,
      salvaged: this.#salvaged,
      deleted: this.#deleted,
    };
  }

  /** R39: every recording is finished, its file closed, its event told and its index made, as far as the disk allows. */
  async stop(): Promise<void> {
    for (const timer of this.#timers.splice(0)) clearInterval(timer);
    if (!(await this.recorder.allClosed(lastWriteMs))) {
      const text = `${this.recorder.openCount} recordings could not be finished in ${lastWriteMs} ms`;
      this.#parts.onProblem(new Error(text), text);
    }
    this.recorder.release();
    await this.#jobs.indexed(lastIndexMs);
    // A thread that a disk holds does not end.
    const ended = Promise.all([this.#jobs.close(), this.#checks.close()]);
    await Promise.race([ended, delay(lastJobMs, undefined, { ref: false })]);
  }

  async #salvage(): Promise<void> {
    try {
      const folders = await occupied(allFolders(this.#parts.config()));
      if (folders.length > 0) await this.#jobs.salvage(folders, (result) => this.#tell(result));
    } catch (error) {
      if (!isDropped(error)) this.#parts.onProblem(error as Error, 'the recordings could not be salvaged');
    }
  }

  #tell(result: SalvageResult): void {
    const { path: file, text } = result;
    if (result.state === 'failed' || result.state === 'refused') {
      return this.#parts.events.recordingSalvageFailed({ file, reason: text });
    }
    this.#salvaged++;
    this.#parts.events.recordingSalvaged({ ...result, file });
  }

  async #index(path: string): Promise<void> {
    try {
      await this.#jobs.index(path);
    } catch (error) {
      this.#parts.events.recordingIndexFailed({ file: path, reason: (error as Error).message });
    }
  }

  async #sweepIfDue(): Promise<void> {
    const { clock, config } = this.#parts;
    const nowMs = clock.monotonicMs();
    if (this.#sweeping || nowMs - this.#lastSweepMs < config().recording.sweepSeconds * 1000) return;
    const limits = retentionLimits(config());
    // Without limits there is nothing to delete but what an earlier process may have left.
    const isFirst = this.#lastSweepMs === Number.NEGATIVE_INFINITY;
    if (Object.keys(limits).length === 0 && !isFirst) return;
    this.#lastSweepMs = nowMs;
    this.#sweeping = true;
    for (const folder of await occupied(allFolders(config()))) await this.#sweep(folder, limits);
    this.#sweeping = false;
  }

  async #sweep(folder: string, limits: RetentionLimits): Promise<void> {
    const { events } = this.#parts;
    let undeleted: { file: string; text: string } | undefined;
    try {
      const { failed: count } = await this.#jobs.sweep(folder, limits, (result) => {
        const file = result.path;
        if (result.state === 'failed') {
          undeleted ??= { file, text: result.text };
          return;
        }
        this.#deleted[result.reason]++;
        events.recordingDeleted({ file, bytes: result.bytes, reason: result.reason });
      });
      if (undeleted === undefined) return;
      events.recordingRetentionFailed({ folder, reason: undeleted.text, undeleted: { count, file: undeleted.file } });
    } catch (error) {
      if (!isDropped(error)) events.recordingRetentionFailed({ folder, reason: (error as Error).message });
    }
  }

  /** In a thread of its own, for a disk that hangs holds its thread; no answer is an answer too. */
  async #checkFolders(): Promise<void> {
    const folders = foldersInUse(this.#parts.config());
    if (folders.length === 0) {
      this.#notReady = '';
      return;
    }
    if (this.#checking) {
      if (++this.#unanswered > 1) this.#notReady = 'the recordings folder does not answer';
      return;
    }
    this.#checking = true;
    try {
      this.#notReady = await this.#checks.check(folders);
    } catch (error) {
      if (!isDropped(error)) this.#notReady = `the recordings folder: ${(error as Error).message}`;
    }
    this.#checking = false;
    this.#unanswered = 0;
  }
}

function unavailable(why: string): CoupletError {
  return new CoupletError('CPL_NATIVE', `recording.mode: recording does not work here: ${why}`, { level: 'error' });
}

/** A job that did not run because the server stops. */
function isDropped(error: unknown): boolean {
  return error instanceof CoupletError && error.code === 'CPL_RECORDING_JOBS_CLOSED';
}

function factsOf(session: Session, mode: RecordedSession['mode']): RecordedSession {
  const { domain, id, protocol, userid, username, nodeid } = session;
  return { domain, id, protocol, userid, username, nodeid, mode };
}

/** Those of the folders in which there is something, or may be: for the others no thread needs to start. */
async function occupied(folders: readonly string[]): Promise<string[]> {
  const isOccupied = await Promise.all(folders.map(mayHoldFiles));
  return folders.filter((_folder, i) => isOccupied[i]);
}

async function mayHoldFiles(folder: string): Promise<boolean> {
  try {
    const entries = await opendir(folder);
    const first = await entries.read();
    await entries.close();
    return first !== null;
  } catch (error) {
    // What else is wrong with it the job tells.
    return (error as NodeJS.ErrnoException).code !== 'ENOENT';
  }
}

/** All folders of the configuration. */
export function allFolders(config: Config): string[] {
  return recordingFolders(recordingOptions(config));
}

/** Folders of the domains that record, the global settings included. */
function foldersInUse(config: Config): string[] {
  const options = recordingOptions(config);
  const modes = (mode: RecordingMode, folder: string) => (mode === 'off' ? [] : [folder]);
  const own = Object.keys(options.domains ?? {}).map((domain) => settingsOf(options, domain));
  return [...new Set([options, ...own].flatMap(({ mode, folder }) => modes(mode, folder)))];
}
