import type { Clock } from '../core/clock.ts';
import {
  onRecorderEvent,
  type RecorderEvent,
  recorderClose,
  recorderOpen,
  recorderStartNs,
  recorderSync,
  recorderWriteHeader,
} from '../native/recorder-binding.ts';
import { errorCode } from './file-system.ts';
import { SESSION_MAGIC } from './format.ts';
import { recordingFileName } from './naming.ts';
import {
  decideRecording,
  type KnownParties,
  type RecordingDecision,
  type RecordingOptions,
  type SessionToRecord,
  unknownParties,
} from './policy.ts';
import { type Parties, SessionFile } from './session-file.ts';

interface RecordedHalf {
  readonly protocol: number;
  readonly identity: { readonly kind: string; readonly userid: string };
}

/** What a recording holds of its session. */
export interface RecordedSession {
  readonly domain: string;
  readonly id: string;
  readonly userid: string;
  readonly username: string;
  readonly protocol: number;
  readonly nodeid: string;
  readonly waitingAddress: string;
  readonly newcomerAddress: string;
  readonly user: RecordedHalf;
  readonly device: RecordedHalf;
}

/** What follows for the session: it starts without, it goes on without, it is closed, only the sidecar is lost. */
export type FailureConsequence = 'unrecorded' | 'ended' | 'session-closed' | 'sidecar-lost';

/** Who is told of each step (R30). `session` is the one given to `begin`. None of these may throw. */
export interface RecordingObserver<S> {
  started(session: S, file: string, mode: 'best-effort' | 'strict'): void;
  /** `reason`: an errno's name or one of {@link startFailures}; `file`: where there is one. */
  failed(
    session: S,
    failure: {
      readonly file: string | undefined;
      readonly reason: string;
      readonly mode: 'best-effort' | 'strict';
      readonly consequence: FailureConsequence;
    },
  ): void;
  /** The file is closed. `complete`: with its end block; `index`: it is to be indexed. */
  finished(
    session: S,
    recording: {
      readonly folder: string;
      readonly file: string;
      readonly bytes: number;
      readonly complete: boolean;
      readonly mode: 'best-effort' | 'strict';
      readonly index: boolean;
    },
  ): void;
}

export type SessionSettings = RecordingOptions & { readonly sidecar: boolean; readonly startMs: number };

export interface SessionRecorderOptions<S> {
  /** Read when a session starts. */
  settings(): SessionSettings;
  /** Asks the directory; absent: there is none. */
  readonly parties?: (session: S) => Promise<KnownParties>;
  readonly observer: RecordingObserver<S>;
  /** Resolves when the events emitted so far are on the disk (R32); asked in strict mode. */
  eventsDurable(): Promise<void>;
  readonly clock: Clock;
  /** What wrote the file, `couplet 1.2.3`. */
  readonly software: string;
}

/**
 * Reasons of a failure besides names of errors: no answer in `startMs`; the start event could not be made durable; the
 * directory could not be asked whether the session is to be recorded.
 */
export const startFailures = ['start-timeout', 'events', 'directory'] as const;

type Decision = Extract<RecordingDecision, { record: true }>;
type Started = SessionFile | 'unrecorded' | 'refused';

/** A recording whose file is or was opened, until the file is closed. */
interface Open<S> {
  readonly session: S;
  readonly decision: Decision;
  file: SessionFile | undefined;
  /** Its session has started. */
  running: boolean;
  /** Settles what the start waits for: the file, then (strict) that its header is on the disk. */
  resolve: () => void;
  reject: (reason: string) => void;
}

/** Why a start failed, in one word. */
class Failure extends Error {
  /** Whether the native recorder has counted it. */
  readonly counted: boolean;

  constructor(reason: string, counted: boolean, cause?: unknown) {
    super(reason, { cause });
    this.counted = counted;
  }
}

/** The start of one session's recording. */
interface Attempt {
  file: SessionFile | undefined;
  /** Nobody waits for it any more: a file that is opened yet is closed at once. */
  over: boolean;
}

/** Errors that another name does not meet: it is there already, or somebody has locked the file as soon as it was. */
const nameTaken: ReadonlySet<string> = new Set(['EEXIST', 'EAGAIN']);

const maxAttempts = 10_000;
const messengerProtocol = 200;

/** Opens sessions' recordings and follows them to the end of their files. One for each relay of the process. */
export class SessionRecorder<S extends RecordedSession> {
  /** Failures by reason that the native recorder does not count. */
  readonly failures = new Map<string, number>();
  /** Recordings begun. */
  begun = 0;
  /** Files that were finished. */
  finished = 0;
  readonly #options: SessionRecorderOptions<S>;
  readonly #open = new Map<number, Open<S>>();
  readonly #unsubscribe: () => void;
  #emptied: (() => void)[] = [];

  constructor(options: SessionRecorderOptions<S>) {
    this.#options = options;
    this.#unsubscribe = onRecorderEvent((event) => this.#onEvent(event));
  }

  /** Files that are open or being opened. */
  get openCount(): number {
    return this.#open.size;
  }

  /**
   * Begins a session's recording where the policy asks for one (R33), else `undefined`. Never rejects: `unrecorded`
   * where best-effort recording fails, `refused` where strict recording does (R35).
   */
  begin(session: S): Promise<Started> | undefined {
    const messenger = session.id.startsWith('meshmessenger/');
    const question: SessionToRecord = {
      domain: session.domain,
      userId: session.userid === '' ? undefined : session.userid,
      protocols: messenger ? [messengerProtocol] : [session.user.protocol, session.device.protocol],
      messenger,
    };
    // Who is selected the directory tells; what is not recorded anyway does not wait for it.
    const knows = this.#options.parties === undefined ? unknownParties : { ...unknownParties, selection: {} };
    const decision = decideRecording(this.#options.settings(), question, knows);
    return decision.record ? this.#begin(session, question, decision) : undefined;
  }

  /** Resolves when every file is closed; after `withinMs` at the latest, then false. */
  async allClosed(withinMs: number): Promise<boolean> {
    if (this.#open.size === 0) return true;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(false), withinMs);
    });
    const closed = new Promise<boolean>((resolve) => this.#emptied.push(() => resolve(true)));
    return Promise.race([closed, late]).finally(() => clearTimeout(timer));
  }

  /** Listens to the native recorder no more. */
  release(): void {
    this.#unsubscribe();
  }

  async #begin(session: S, question: SessionToRecord, decision: Decision): Promise<Started> {
    const { startMs } = this.#options.settings();
    const attempt: Attempt = { over: false, file: undefined };
    let timer: NodeJS.Timeout | undefined;
    try {
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Failure('start-timeout', false)), startMs);
      });
      const parties = await Promise.race([this.#parties(session), late]);
      if (!decideRecording(this.#options.settings(), question, parties).record) return 'unrecorded';
      this.begun++;
      const file = await Promise.race([this.#start(session, decision, parties, attempt), late]);
      const open = this.#open.get(file.handle);
      if (file.failure !== '' || open === undefined) throw new Failure(file.failure, true);
      open.running = true;
      this.#options.observer.started(session, file.file, decision.mode);
      return file;
    } catch (error) {
      attempt.over = true;
      const reason = error instanceof Failure ? error.message : errorCode(error);
      const counted = error instanceof Failure && error.counted;
      if (!counted) this.failures.set(reason, (this.failures.get(reason) ?? 0) + 1);
      attempt.file?.close();
      const consequence = decision.mode === 'strict' ? 'session-closed' : 'unrecorded';
      const failure = { file: attempt.file?.file, reason, mode: decision.mode, consequence } as const;
      this.#options.observer.failed(session, failure);
      return decision.mode === 'strict' ? 'refused' : 'unrecorded';
    } finally {
      clearTimeout(timer);
    }
  }

  async #parties(session: S): Promise<KnownParties> {
    try {
      return (await this.#options.parties?.(session)) ?? unknownParties;
    } catch (cause) {
      throw new Failure('directory', false, cause);
    }
  }

  async #start(session: S, decision: Decision, parties: KnownParties, attempt: Attempt): Promise<SessionFile> {
    const file = await this.#openFile(session, decision, parties.deviceName, attempt);
    if (decision.form === 'mcrec') {
      recorderWriteHeader(file.handle, this.#header(session, parties.deviceName, file.handle));
    }
    if (decision.mode === 'strict') {
      await Promise.all([this.#durable(file), this.#eventsDurable()]);
    }
    return file;
  }

  /** R34: under the first name that is free. */
  async #openFile(session: S, decision: Decision, deviceName: string, attempt: Attempt): Promise<SessionFile> {
    const { clock } = this.#options;
    const lines = decision.form === 'jsonl';
    const strict = decision.mode === 'strict';
    const { sidecar } = this.#options.settings();
    const parts = {
      domain: session.domain,
      startMs: clock.nowMs(),
      userName: session.username,
      deviceName,
      sessionId: session.id,
      form: decision.form,
    };
    for (let number = 1; number <= maxAttempts; number++) {
      const name = recordingFileName(parts, number);
      const handle = recorderOpen(decision.folder, name, { strict, sidecar: sidecar && !lines, lines });
      const open: Open<S> = { session, decision, file: undefined, running: false, resolve: () => {}, reject: () => {} };
      this.#open.set(handle, open);
      try {
        await this.#told(open);
      } catch (error) {
        recorderClose(handle);
        if (error instanceof Failure && nameTaken.has(error.message) && !attempt.over) continue;
        throw error;
      }
      const file = new SessionFile(
        handle,
        decision.folder,
        name,
        strict,
        lines ? partiesOf(session) : undefined,
        clock,
      );
      open.file = file;
      attempt.file = file;
      if (!attempt.over) return file;
      file.close();
      throw new Failure('start-timeout', false);
    }
    throw new Failure('EEXIST', false);
  }

  async #durable(file: SessionFile): Promise<void> {
    const open = this.#open.get(file.handle);
    if (open === undefined) throw new Failure(file.failure, true);
    recorderSync(file.handle);
    return this.#told(open);
  }

  async #eventsDurable(): Promise<void> {
    try {
      await this.#options.eventsDurable();
    } catch (cause) {
      throw new Failure('events', false, cause);
    }
  }

  #told(open: Open<S>): Promise<void> {
    return new Promise((resolve, reject) => {
      open.resolve = resolve;
      open.reject = (reason) => reject(new Failure(reason, true));
    });
  }

  #header(session: S, deviceName: string, handle: number): string {
    const startNs = recorderStartNs(handle);
    return JSON.stringify({
      magic: SESSION_MAGIC,
      ver: 1,
      userid: session.userid,
      username: session.username,
      sessionid: session.id,
      ipaddr1: session.newcomerAddress,
      ipaddr2: session.waitingAddress,
      time: new Date(Number(startNs / 1_000_000n)).toISOString(),
      protocol: session.protocol,
      nodeid: session.nodeid === '' ? undefined : session.nodeid,
      devicename: deviceName === '' ? undefined : deviceName,
      startNs: startNs.toString(),
      clock: 'CLOCK_REALTIME at the start, CLOCK_MONOTONIC from then on',
      software: this.#options.software,
    });
  }

  #onEvent(event: RecorderEvent): void {
    if (event.handle === 0) {
      for (const { file } of this.#open.values()) {
        if (event.type === 'goOn') file?.tellGoOn();
        if (event.type === 'holdBack' && file?.strict) file.tellHoldBack();
      }
      return;
    }
    const open = this.#open.get(event.handle);
    if (open === undefined) return;
    switch (event.type) {
      case 'opened':
      case 'durable':
        return open.resolve();
      case 'goOn':
        return open.file?.tellGoOn();
      case 'failed':
        return this.#onFailed(open, event.errno, event.sidecar);
      case 'closed':
        return this.#onClosed(event.handle, open, event.bytes, event.complete);
      case 'holdBack':
        return open.file?.tellHoldBack();
    }
  }

  #onFailed(open: Open<S>, reason: string, sidecar: boolean): void {
    const { file, session, decision } = open;
    const { mode } = decision;
    const { observer } = this.#options;
    if (file === undefined) return open.reject(reason);
    if (sidecar) return observer.failed(session, { file: file.file, reason, mode, consequence: 'sidecar-lost' });
    file.tellFailed(reason);
    // Where the session has not started, whoever waits tells of it.
    open.reject(reason);
    if (open.running) {
      const consequence = mode === 'strict' ? 'session-closed' : 'ended';
      observer.failed(session, { file: file.file, reason, mode, consequence });
    }
  }

  #onClosed(handle: number, { file, session, decision }: Open<S>, bytes: number, complete: boolean): void {
    this.#open.delete(handle);
    if (file !== undefined) {
      if (complete) this.finished++;
      const index = complete && decision.index && decision.form === 'mcrec';
      this.#options.observer.finished(session, {
        folder: file.folder,
        file: file.file,
        bytes,
        complete,
        mode: decision.mode,
        index,
      });
    }
    if (this.#open.size === 0) for (const resolve of this.#emptied.splice(0)) resolve();
  }
}

/** Who a messenger session's halves are; ids such as `meshmessenger/user//a/node//b` name the device. */
function partiesOf({ id, user, device }: RecordedSession): Parties {
  const name = ({ identity }: RecordedHalf) =>
    identity.kind === 'user' || identity.kind === 'share'
      ? identity.userid
      : (/node\/[^/]*\/[^/]+/.exec(id)?.[0] ?? '');
  return { user: name(user), device: name(device) };
}
