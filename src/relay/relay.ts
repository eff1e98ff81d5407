import type { Clock } from '../core/clock.ts';
import type { Outcome } from '../core/outcome.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import { greetings } from '../protocol/control-messages.ts';
import type { ForwardedPair, Forwarder, PairEnd, PairOptions } from './forwarder.ts';
import type { Admission } from './half.ts';
import { Keepalive } from './keepalive.ts';
import { type AdmissionLimit, Limits } from './limits.ts';
import { Pairing, type PairingRefusal } from './pairing.ts';
import type { RelayObserver, RelaySettings, Rendezvous, WiderRendezvous } from './relay-parts.ts';
import {
  describeSession,
  type Half,
  type RunningSession,
  type Session,
  type SessionRecorder,
  type SessionRecording,
  type StartingSession,
} from './session.ts';
import { EndTimers, maxDelayMs } from './session-end.ts';
import { StartingPair } from './starting-pair.ts';

export type { RelayObserver, RelaySettings, Rendezvous, WiderRendezvous } from './relay-parts.ts';

/**
 * Halves meet here: waiting, pairing, sessions, their ends. Knows no WebSocket library, no configuration file, no log;
 * messages pass it by (see forwarder.ts).
 */
export class Relay {
  readonly limits: Limits;
  readonly pairing: Pairing<Half>;
  /** Set in a cluster, before the first half comes. */
  wider: WiderRendezvous | undefined;
  /** Halves whose rendezvous is being sought: held, and counted like those that wait. */
  readonly #joining = new Set<Half>();
  readonly #forwarder: Pick<Forwarder, 'pair'>;
  readonly #recorder: SessionRecorder | undefined;
  readonly #observer: RelayObserver;
  readonly #clock: Clock;
  readonly #sessions = new Set<RunningSession>();
  readonly #keepalive = new Keepalive(() => this.#sessions);
  readonly #endTimers: EndTimers;
  #settings: RelaySettings;
  #holdTimer: NodeJS.Timeout | undefined;
  #lastArrivalMs = 0;
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
    this.#endTimers = new EndTimers(clock, (session) => observer.limitHit('duration', session.user));
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
    return this.limits.admitWaiting(admission.address, this.waitingCount);
  }

  /** Halves that wait for their mates, or are joining. */
  get waitingCount(): number {
    return this.pairing.waitingCount + this.#joining.size;
  }

  /** Those halves. */
  *waiting(): Iterable<Half> {
    yield* this.pairing.waiting();
    yield* this.#joining;
  }

  /** False while the server drains. */
  get accepts(): boolean {
    return !this.#closed;
  }

  /** A held half's rendezvous is to be sought first: `join`, `startLinked` or `turnAway` follows. */
  startJoining(half: Half): void {
    if (half.arrivedMs === 0) half.arrivedMs = this.#clock.monotonicMs();
    half.state = 'joining';
    this.#joining.add(half);
    this.limits.waitingByAddress.add(half.admission.address);
  }

  /** Takes a waiting half out of its rendezvous, to seek it elsewhere. */
  withdraw(half: Half): void {
    this.pairing.leave(half);
    half.state = 'joining';
    this.#joining.add(half);
  }

  /** A joining half has its rendezvous on another server. From now on it is the link's affair. */
  startLinked(half: Half): void {
    this.#stopJoining(half);
    half.state = 'linked';
  }

  /** An admitted half's WebSocket is open and held: not read, nothing sent. */
  join(half: Half): void {
    if (half.arrivedMs === 0) half.arrivedMs = this.#clock.monotonicMs();
    if (half.state === 'joining') this.#stopJoining(half);
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

  /** A half's socket has closed, for whatever reason. Paired and linked halves are the forwarder's affair. */
  left(half: Half): void {
    half.starting?.lost(half.socket);
    if (half.state === 'waiting') this.#stopWaiting(half, 'no-peer');
    else if (half.state === 'joining') this.#giveUpJoining(half, 'no-peer');
    if (half.state !== 'paired' && half.state !== 'linked') half.state = 'closed';
  }

  /** A waiting half that cannot be paused sent more than is kept for it (portable path without the addon). */
  flooded(half: Half): void {
    const reason = 'relay.highWaterBytes: too much sent before the peer came';
    half.starting?.end('slow', closeCodes.slow, reason);
    this.turnAway(half, 'slow', closeCodes.slow, reason);
  }

  /** A half has waited, or sought its rendezvous, for as long as it may (R15). */
  expireHold(half: Half): void {
    this.#observer.holdExpired(half.admission, this.#clock.monotonicMs() - half.arrivedMs);
    this.turnAway(half, 'no-peer', closeCodes.noPeer, 'relay.holdMs: no peer came');
  }

  /** Closes a half that is not paired: one that waits, or one that is not to wait at all. No effect on others. */
  turnAway(half: Half, outcome: Outcome, code: number, reason: string): void {
    if (half.state === 'paired' || half.state === 'linked' || half.state === 'closed') return;
    if (half.state === 'waiting') this.#stopWaiting(half, outcome);
    else if (half.state === 'joining') this.#giveUpJoining(half, outcome);
    else this.#observer.rendezvousEnded(half.admission, outcome);
    half.state = 'closed';
    half.socket.close(code, reason);
  }

  /** Ends one session because a right was withdrawn (fault 11); false where no such session runs. */
  revoke(domain: string, id: string): boolean {
    return this.endSession({ domain, id }, 'revoked', closeCodes.revoked, 'revoked');
  }

  /** Ends one session at once; false where no such session runs. */
  endSession(at: Rendezvous, outcome: Outcome, code: number, reason: string): boolean {
    for (const session of this.#sessions) {
      if (session.domain !== at.domain || session.id !== at.id) continue;
      session.pair.end(outcome, code, reason);
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
    for (const half of [...this.waiting()]) {
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
    // One that has waited elsewhere is due before those in front of it, which the common timer does not see.
    if (half.arrivedMs < this.#lastArrivalMs - 1000) {
      const leftMs = half.arrivedMs + this.#settings.holdMs - this.#clock.monotonicMs();
      setTimeout(() => half.state === 'waiting' && this.expireHold(half), Math.max(leftMs, 1)).unref();
    }
    this.#lastArrivalMs = Math.max(this.#lastArrivalMs, half.arrivedMs);
    this.#armHold();
  }

  #stopWaiting(half: Half, outcome: Outcome): void {
    this.pairing.leave(half);
    this.limits.waitingByAddress.remove(half.admission.address);
    half.state = 'closed';
    this.#observer.rendezvousEnded(half.admission, outcome);
    this.wider?.freed(half.admission);
  }

  #stopJoining(half: Half): void {
    this.#joining.delete(half);
    this.limits.waitingByAddress.remove(half.admission.address);
    half.state = 'new';
  }

  #giveUpJoining(half: Half, outcome: Outcome): void {
    this.#stopJoining(half);
    half.state = 'closed';
    this.#observer.rendezvousEnded(half.admission, outcome);
    this.wider?.gone(half);
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
      if (nowMs - half.arrivedMs < this.#settings.holdMs) break;
      this.expireHold(half);
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
    if (this.#sessions.has(session as RunningSession))
      this.#endTimers.arm(session as RunningSession, this.#settings.maxSessionMs);
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
    this.#endTimers.arm(running, this.#settings.maxSessionMs);
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

  #over(session: RunningSession, end: PairEnd, user: Half, device: Half): void {
    user.state = device.state = 'closed';
    this.#endTimers.clear(session);
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
    this.wider?.freed(session);
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
