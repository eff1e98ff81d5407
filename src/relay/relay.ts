import type { Clock } from '../core/clock.ts';
import type { Outcome } from '../core/outcome.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import { greetings } from '../protocol/control-messages.ts';
import type { ForwardedPair, Forwarder, PairEnd, PairOptions } from './forwarder.ts';
import type { Admission } from './half.ts';
import { Keepalive } from './keepalive.ts';
import { type AdmissionLimit, Limits } from './limits.ts';
import { Pairing, type PairingRefusal } from './pairing.ts';
import {
  describeSession,
  type Half,
  type Mismatch,
  type RunningSession,
  type Session,
  type SessionEnd,
  type SessionRecorder,
  type SessionRecording,
  type StartingSession,
} from './session.ts';
import { StartingPair } from './starting-pair.ts';

/** The relay's settings; names, units and defaults are those of `relay.*` in the configuration. */
export interface RelaySettings {
  readonly holdMs: number;
  readonly highWaterBytes: number;
  readonly lowWaterBytes: number;
  readonly maxMessageBytes: number;
  readonly pingSeconds: number;
  readonly pongSeconds: number;
  readonly wsPingSeconds: number;
  readonly stallMs: number;
  readonly lingerMs: number;
  readonly strictSides: boolean;
  readonly idleMs: number;
  readonly maxSessionMs: number;
  readonly sessionBytesPerSecond: number;
  readonly userBytesPerSecond: number;
  readonly maxWaiting: number;
  readonly maxWaitingPerAddress: number;
  readonly maxSessionsPerUser: number;
  readonly upgradesPerAddressPerSecond: number;
  /** `auth.defaultUser` (R11); empty: none. */
  readonly defaultUser: string;
}

/** What the relay tells of; compose.ts hands it to events and metrics. None of these may throw. */
export interface RelayObserver {
  /** Called before the halves are paired: no byte is forwarded until it returns (fault 49). */
  sessionStarting(session: Session): void;
  sessionEnded(session: Session, end: SessionEnd): void;
  /** A rendezvous that never became a session ended (R28). */
  rendezvousEnded(admission: Admission, outcome: Outcome): void;
  pairingRefused(newcomer: Admission, refusal: PairingRefusal, waiting: Admission | undefined): void;
  holdExpired(admission: Admission, heldMs: number): void;
  mismatch(session: Session, mismatch: Mismatch): void;
  limitHit(limit: string, admission: Admission): void;
}

/** setTimeout's longest delay, milliseconds. */
const maxDelayMs = 2_147_483_647;

/**
 * Halves meet here: waiting, pairing, sessions, their ends. Knows no WebSocket library, no configuration file, no log;
 * messages pass it by (see forwarder.ts).
 */
export class Relay {
  readonly limits: Limits;
  readonly pairing: Pairing<Half>;
  readonly #forwarder: Pick<Forwarder, 'pair'>;
  readonly #recorder: SessionRecorder | undefined;
  readonly #observer: RelayObserver;
  readonly #clock: Clock;
  readonly #sessions = new Set<RunningSession>();
  readonly #keepalive = new Keepalive(() => this.#sessions);
  /** Of the sessions that have an end by the clock; most have none. */
  readonly #endTimers = new Map<RunningSession, NodeJS.Timeout>();
  #settings: RelaySettings;
  #holdTimer: NodeJS.Timeout | undefined;
  #closed = false;
  #emptied: (() => void)[] = [];

  /** @param recorder absent: nothing is recorded */
  constructor(
    settings: RelaySettings,
    forwarder: Pick<Forwarder, 'pair'>,
    observer: RelayObserver,
    clock: Clock,
    recorder?: SessionRecorder,
  ) {
    this.#settings = settings;
    this.#forwarder = forwarder;
    this.#recorder = recorder;
    this.#observer = observer;
    this.#clock = clock;
    this.limits = new Limits(settings, clock);
    this.pairing = new Pairing(settings);
    this.#keepalive.set(settings.pingSeconds, settings.pongSeconds);
  }

  /** New settings; they hold for sessions that start from now on, keepalive and admission limits at once (R40). */
  configure(settings: RelaySettings): void {
    this.#settings = settings;
    this.limits.options = settings;
    this.pairing.options = settings;
    this.#keepalive.set(settings.pingSeconds, settings.pongSeconds);
  }

  sessions(): Iterable<RunningSession> {
    return this.#sessions;
  }

  isRunning(session: RunningSession): boolean {
    return this.#sessions.has(session);
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** Asked before an upgrade: may this half come in, seen from the limits on waiting halves? (R26) */
  admitHalf(admission: Admission): AdmissionLimit | undefined {
    if (!this.pairing.wouldWait(admission)) return undefined;
    return this.limits.admitWaiting(admission.address, this.pairing.waitingCount);
  }

  /** An admitted half's WebSocket is open and held: not read, nothing sent. */
  join(half: Half): void {
    half.arrivedMs = this.#clock.monotonicMs();
    if (this.#closed) return this.turnAway(half, 'shutdown', closeCodes.goingAway, 'server going away');
    const { admission } = half;
    if (this.#isExpired(half)) return this.turnAway(half, 'expired', closeCodes.expired, 'token expired');
    let waitingBefore = this.pairing.waitingAt(half);
    if (waitingBefore !== undefined && this.#isExpired(waitingBefore)) {
      this.turnAway(waitingBefore, 'expired', closeCodes.expired, 'token expired');
      waitingBefore = undefined;
    }
    const arrival = this.pairing.arrive(half, (user, device) => this.#overUserLimit(user, device));
    if (arrival.verdict === 'wait') return this.#wait(half);
    if (arrival.verdict === 'refuse') {
      if (arrival.outcome === 'limit') this.#observer.limitHit('user-sessions', admission);
      else this.#observer.pairingRefused(admission, arrival, waitingBefore?.admission);
      return this.turnAway(half, arrival.outcome, arrival.code, arrival.reason);
    }
    this.#pair(arrival.waiting, arrival.user, arrival.device);
  }

  /** A half's socket has closed, for whatever reason. Paired halves are the forwarder's affair. */
  left(half: Half): void {
    half.starting?.lost(half.socket);
    if (half.state === 'waiting') this.#stopWaiting(half, 'no-peer');
    if (half.state !== 'paired') half.state = 'closed';
  }

  /** A waiting half that cannot be paused sent more than is kept for it (portable path without the addon). */
  flooded(half: Half): void {
    const reason = 'relay.highWaterBytes: too much sent before the peer came';
    half.starting?.end('slow', closeCodes.slow, reason);
    this.turnAway(half, 'slow', closeCodes.slow, reason);
  }

  /** Closes a half that is not paired: one that waits, or one that is not to wait at all. No effect on others. */
  turnAway(half: Half, outcome: Outcome, code: number, reason: string): void {
    if (half.state === 'paired' || half.state === 'closed') return;
    if (half.state === 'waiting') this.#stopWaiting(half, outcome);
    else this.#observer.rendezvousEnded(half.admission, outcome);
    half.state = 'closed';
    half.socket.close(code, reason);
  }

  /** Ends one session because a right was withdrawn (fault 11); false where no such session runs. */
  revoke(domain: string, id: string): boolean {
    for (const session of this.#sessions) {
      if (session.domain !== domain || session.id !== id) continue;
      session.pair.end('revoked', closeCodes.revoked, 'revoked');
      return true;
    }
    return false;
  }

  /**
   * Takes no new halves, waits up to `drainMs` for running sessions to end, then closes the rest with 1001 spread over
   * `spreadMs` (R39). Resolves when no session is left. Aborting the signal skips the wait and the spreading.
   */
  async drain(drainMs: number, spreadMs: number, signal: AbortSignal): Promise<void> {
    this.#closed = true;
    for (const half of [...this.pairing.waiting()]) {
      this.turnAway(half, 'shutdown', closeCodes.goingAway, 'server going away');
    }
    clearTimeout(this.#holdTimer);
    await this.#empty(drainMs, signal);
    const left = [...this.#sessions];
    const stepMs = signal.aborted || left.length === 0 ? 0 : spreadMs / left.length;
    let dueMs = this.#clock.monotonicMs();
    for (const session of left) {
      session.pair.end('shutdown', closeCodes.goingAway, 'server going away', !signal.aborted);
      dueMs += stepMs;
      const aheadMs = dueMs - this.#clock.monotonicMs();
      if (aheadMs >= 10 && !signal.aborted) await this.#empty(aheadMs, signal);
    }
    // Every forwarder closes its sockets by its own deadlines; this one only bounds a wait for a broken one.
    await this.#empty(Math.max(this.#settings.lingerMs, 2000) + 1000, new AbortController().signal);
    this.#keepalive.stop();
  }

  #isExpired({ admission }: Half): boolean {
    return admission.expiresAtMs !== undefined && admission.expiresAtMs <= this.#clock.nowMs();
  }

  #wait(half: Half): void {
    half.state = 'waiting';
    this.limits.waitingByAddress.add(half.admission.address);
    this.#armHold();
  }

  #stopWaiting(half: Half, outcome: Outcome): void {
    this.pairing.leave(half);
    this.limits.waitingByAddress.remove(half.admission.address);
    half.state = 'closed';
    this.#observer.rendezvousEnded(half.admission, outcome);
  }

  #overUserLimit(user: Half, device: Half): PairingRefusal | undefined {
    const userid = user.identity.userid !== '' ? user.identity.userid : device.identity.userid;
    if (this.limits.admitSession(userid)) return undefined;
    return { outcome: 'limit', code: closeCodes.limit, reason: 'relay.maxSessionsPerUser reached' };
  }

  // All halves wait equally long, so the first in the pairing's order is the next to expire: one timer serves all.
  #armHold(): void {
    if (this.#holdTimer !== undefined) return;
    for (const half of this.pairing.waiting()) {
      const delayMs = half.arrivedMs + this.#settings.holdMs - this.#clock.monotonicMs();
      this.#holdTimer = setTimeout(() => this.#expireHolds(), Math.min(Math.max(delayMs, 1), maxDelayMs));
      return;
    }
  }

  #expireHolds(): void {
    this.#holdTimer = undefined;
    const nowMs = this.#clock.monotonicMs();
    for (const half of this.pairing.waiting()) {
      const heldMs = nowMs - half.arrivedMs;
      if (heldMs < this.#settings.holdMs) break;
      this.#observer.holdExpired(half.admission, heldMs);
      this.turnAway(half, 'no-peer', closeCodes.noPeer, 'relay.holdMs: no peer came');
    }
    this.#armHold();
  }

  #pair(waiting: Half, user: Half, device: Half): void {
    const newcomer = waiting === user ? device : user;
    const { session, mismatches } = describeSession(waiting, user, device, this.#clock.monotonicMs());
    this.limits.waitingByAddress.remove(waiting.admission.address);
    waiting.state = newcomer.state = 'paired';
    for (const mismatch of mismatches) this.#observer.mismatch(session, mismatch);
    this.#observer.sessionStarting(session);
    this.limits.sessionsByUser.add(session.userid);
    // Kept as long as the session, with all variables that a closure in this function uses: let there be no other.
    const onEnd = (end: PairEnd) => this.#over(session as RunningSession, end, user, device);
    const opening = this.#recorder?.begin(session);
    if (opening !== undefined) return this.#pairRecorded(session, user, device, opening, onEnd);
    const options = this.#pairOptions(session, undefined);
    // Before it is paired: without the addon, what a half has sent while it waited may end the pair as it starts.
    this.#sessions.add(session as RunningSession);
    session.pair = this.#forwarder.pair(user.socket, device.socket, greetings.plain, options, onEnd);
    if (this.#sessions.has(session as RunningSession)) this.#armEnd(session as RunningSession);
  }

  /** The halves stay held until it is settled whether the session is recorded. */
  #pairRecorded(
    session: StartingSession,
    user: Half,
    device: Half,
    opening: Promise<SessionRecording | 'unrecorded' | 'refused'>,
    onEnd: (end: PairEnd) => void,
  ): void {
    const pair = new StartingPair([user.socket, device.socket], onEnd);
    session.pair = user.starting = device.starting = pair;
    const running = session as RunningSession;
    this.#sessions.add(running);
    this.#armEnd(running);
    const forward = (greeting: string, recording?: SessionRecording) =>
      this.#forwarder.pair(user.socket, device.socket, greeting, this.#pairOptions(session, recording), onEnd);
    void opening.then((recording) => {
      user.starting = device.starting = undefined;
      this.#startRecorded(running, pair, recording, forward);
    });
  }

  /** R35: forwarding starts when the recording stands, or has turned out not to. */
  #startRecorded(
    session: RunningSession,
    pair: StartingPair,
    recording: SessionRecording | 'unrecorded' | 'refused',
    forward: (greeting: string, recording?: SessionRecording) => ForwardedPair,
  ): void {
    if (recording === 'refused') {
      pair.end('recording-failed', closeCodes.recordingFailed, 'the recording failed');
    } else if (recording === 'unrecorded') {
      if (!pair.over) pair.start(forward(greetings.plain));
    } else if (pair.over) {
      recording.close();
    } else {
      session.recording = recording;
      pair.start(forward(greetings.recorded, recording));
    }
  }

  #pairOptions(session: Session, recording: SessionRecording | undefined): PairOptions {
    const s = this.#settings;
    const options: PairOptions = {
      highWaterBytes: s.highWaterBytes,
      lowWaterBytes: s.lowWaterBytes,
      maxMessageBytes: s.maxMessageBytes,
      idleMs: s.idleMs,
      stallMs: s.stallMs,
      lingerMs: s.lingerMs,
      pingMs: s.wsPingSeconds * 1000,
      bytesPerSecond: s.sessionBytesPerSecond,
      hardClose: session.user.hardClose || session.device.hardClose,
      recording,
    };
    if (s.userBytesPerSecond === 0 || session.userid === '') return options;
    return { ...options, userPace: { key: session.userid, bytesPerSecond: s.userBytesPerSecond } };
  }

  // The nearest of a session's ends by the clock: the tokens' absolute expiry (R6) and the longest session (R26).
  #armEnd(session: RunningSession): void {
    const expiresAtMs = Math.min(session.user.expiresAtMs ?? Infinity, session.device.expiresAtMs ?? Infinity);
    const tokenMs = expiresAtMs - this.#clock.nowMs();
    const longestMs = this.#settings.maxSessionMs;
    const limitMs = longestMs === 0 ? Infinity : session.startedMs + longestMs - this.#clock.monotonicMs();
    const delayMs = Math.min(tokenMs, limitMs);
    if (delayMs === Infinity) return;
    const timer = setTimeout(
      () => {
        if (tokenMs <= maxDelayMs && tokenMs <= limitMs) {
          session.pair.end('expired', closeCodes.expired, 'token expired');
        } else if (limitMs <= maxDelayMs) {
          this.#observer.limitHit('duration', session.user);
          session.pair.end('limit', closeCodes.limit, 'relay.maxSessionMs reached');
        } else {
          this.#armEnd(session);
        }
      },
      Math.min(Math.max(delayMs, 0), maxDelayMs),
    );
    this.#endTimers.set(session, timer);
  }

  #over(session: RunningSession, end: PairEnd, user: Half, device: Half): void {
    user.state = device.state = 'closed';
    clearTimeout(this.#endTimers.get(session));
    this.#endTimers.delete(session);
    this.pairing.end(session);
    session.recording?.close();
    this.#sessions.delete(session);
    this.limits.sessionsByUser.remove(session.userid);
    if (end.error === 'too-big') this.#observer.limitHit('message-size', session.user);
    if (end.outcome === 'idle') this.#observer.limitHit('idle', session.user);
    this.#observer.sessionEnded(session, {
      outcome: end.outcome,
      closedBy: end.closedBy,
      error: end.error,
      durationMs: this.#clock.monotonicMs() - session.startedMs,
      recording: session.recording?.file,
      statistics: end.statistics,
    });
    if (this.#sessions.size === 0) for (const resolve of this.#emptied.splice(0)) resolve();
  }

  #empty(timeoutMs: number, signal: AbortSignal): Promise<void> {
    if (this.#sessions.size === 0 || timeoutMs <= 0 || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, Math.min(timeoutMs, maxDelayMs));
      signal.addEventListener('abort', done);
      this.#emptied.push(done);
    });
  }
}
