import type { Outcome } from '../core/outcome.ts';
import type { ForwardedPair, PairRecording, PairStatistics } from './forwarder.ts';
import type { Admission, HalfSocket, Side } from './half.ts';
import type { StartingPair } from './starting-pair.ts';

/**
 * An admitted half: who it is, its socket, and where it stands. `waiting → paired → closed`; in a cluster `joining`
 * while its rendezvous is sought, and `linked` where that is on another server.
 */
export class Half {
  state: 'new' | 'joining' | 'waiting' | 'paired' | 'linked' | 'closed' = 'new';
  /** Monotonic milliseconds; 0 until it has arrived. */
  arrivedMs = 0;
  /** While its session's recording is being opened. */
  starting: StartingPair | undefined;
  readonly admission: Admission;
  readonly socket: HalfSocket;

  constructor(admission: Admission, socket: HalfSocket) {
    this.admission = admission;
    this.socket = socket;
  }

  get domain(): string {
    return this.admission.domain;
  }
  get id(): string {
    return this.admission.id;
  }
  get identity(): Admission['identity'] {
    return this.admission.identity;
  }
  get browser(): boolean {
    return this.admission.browser;
  }
  isGone(): boolean {
    return this.socket.isGone();
  }
}

/** From pairing to close. What events, metrics and lists of sessions need to know. */
export interface Session {
  readonly domain: string;
  readonly id: string;
  readonly user: Admission;
  readonly device: Admission;
  /** The user the session belongs to, for limits and events: the user half's, else whom the device stands for. */
  readonly userid: string;
  readonly username: string;
  readonly guestname: string | undefined;
  /** IP1 of R29. */
  readonly waitingAddress: string;
  /** IP2 of R29. */
  readonly newcomerAddress: string;
  readonly protocol: number;
  readonly nodeid: string;
  /** No keepalive texts (R2). */
  readonly noping: boolean;
  /** Monotonic milliseconds at which it started, and how long the first half had waited then. */
  readonly startedMs: number;
  readonly waitedMs: number;
}

/** A session that runs. */
export interface RunningSession extends Session {
  readonly pair: ForwardedPair;
  /** While what is forwarded is recorded. */
  recording: SessionRecording | undefined;
}

/** The recording of one session. */
export interface SessionRecording extends PairRecording {
  /** Name of the file, without its folder. */
  readonly file: string;
  /** Nothing more is forwarded. */
  close(): void;
}

/** Opens recordings (R33, R35); `recording/` is behind it. */
export interface SessionRecorder {
  /**
   * Asked once, when a session starts; `undefined`: it is not recorded. The promise never rejects. `unrecorded`:
   * best-effort recording has failed, the session goes on without; `refused`: strict recording has failed.
   */
  begin(session: Session): Promise<SessionRecording | 'unrecorded' | 'refused'> | undefined;
}

/** How a session ended (R28, R29). */
export interface SessionEnd {
  readonly outcome: Outcome;
  readonly closedBy: Side | 'relay';
  /** Word for `couplet_half_errors_total`; empty where no half was at fault. */
  readonly error: string;
  readonly durationMs: number;
  /** Name of the file it was recorded in, to its end or to a failure. */
  readonly recording: string | undefined;
  readonly statistics: PairStatistics;
}

/** Where the two halves' protocol numbers or device ids differ; the user half's counts (R3). */
export interface Mismatch {
  readonly field: 'protocol' | 'nodeid';
  readonly user: string;
  readonly device: string;
}

/**
 * A session before its pair is there. It has all fields of a running one from the start: fields added later would be
 * kept in a memory block of their own.
 */
export type StartingSession = Session & { pair: ForwardedPair | undefined; recording: SessionRecording | undefined };

/** Makes the session's facts out of its two halves (R3, R29). */
export function describeSession(
  waiting: Half,
  user: Half,
  device: Half,
  nowMs: number,
): { session: StartingSession; mismatches: Mismatch[] } {
  const u = user.admission;
  const d = device.admission;
  const mismatches: Mismatch[] = [];
  if (u.protocol !== 0 && d.protocol !== 0 && u.protocol !== d.protocol) {
    mismatches.push({ field: 'protocol', user: String(u.protocol), device: String(d.protocol) });
  }
  if (u.nodeid !== '' && d.nodeid !== '' && u.nodeid !== d.nodeid) {
    mismatches.push({ field: 'nodeid', user: u.nodeid, device: d.nodeid });
  }
  const newcomer = waiting === user ? device : user;
  const named = u.identity.userid !== '' ? u.identity : d.identity;
  const session: StartingSession = {
    domain: u.domain,
    id: u.id,
    user: u,
    device: d,
    userid: named.userid,
    username: named.username,
    guestname: u.identity.guestname,
    waitingAddress: waiting.admission.address,
    newcomerAddress: newcomer.admission.address,
    protocol: u.id.startsWith('meshmessenger/') ? 200 : u.protocol !== 0 ? u.protocol : d.protocol,
    nodeid: u.nodeid !== '' ? u.nodeid : d.nodeid,
    noping: u.noping || d.noping,
    startedMs: nowMs,
    waitedMs: nowMs - waiting.arrivedMs,
    pair: undefined,
    recording: undefined,
  };
  return { session, mismatches };
}
