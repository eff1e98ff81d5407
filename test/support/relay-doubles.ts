import type { TestContext } from 'node:test';
import type { Clock } from '../../src/core/clock.ts';
import type { Outcome } from '../../src/core/outcome.ts';
import {
  type ForwardedPair,
  type Forwarder,
  noStatistics,
  type PairEnd,
  type PairOptions,
  type PairStatistics,
} from '../../src/relay/forwarder.ts';
import type { Admission, HalfSocket, Identity, Side } from '../../src/relay/half.ts';
import type { PairingRefusal } from '../../src/relay/pairing.ts';
import { Relay, type RelaySettings } from '../../src/relay/relay.ts';
import {
  Half,
  type Mismatch,
  type Session,
  type SessionEnd,
  type SessionRecorder,
  type SessionRecording,
} from '../../src/relay/session.ts';

export const defaultSettings: RelaySettings = {
  holdMs: 30_000,
  highWaterBytes: 1_048_576,
  lowWaterBytes: 262_144,
  maxMessageBytes: 16_777_216,
  pingSeconds: 0,
  pongSeconds: 0,
  wsPingSeconds: 60,
  stallMs: 120_000,
  lingerMs: 30_000,
  strictSides: false,
  idleMs: 0,
  maxSessionMs: 0,
  sessionBytesPerSecond: 0,
  userBytesPerSecond: 0,
  maxWaiting: 100_000,
  maxWaitingPerAddress: 1000,
  maxSessionsPerUser: 0,
  upgradesPerAddressPerSecond: 0,
  defaultUser: '',
};

export function userIdentity(name = 'alice'): Identity {
  return { kind: 'user', side: 'user', userid: `user//${name}`, username: name };
}

export function deviceIdentity(name = 'alice'): Identity {
  return { kind: 'device', side: 'device', userid: `user//${name}`, username: name };
}

export const noUserIdentity: Identity = { kind: 'nouser', side: 'device', userid: '', username: '' };
export const anonymousIdentity: Identity = { kind: 'anonymous', side: 'device', userid: '', username: '' };

export function admission(id: string, identity: Identity, more: Partial<Admission> = {}): Admission {
  return {
    domain: '',
    id,
    identity,
    protocol: 0,
    nodeid: '',
    browser: false,
    noping: false,
    hardClose: false,
    address: '10.0.0.1',
    ...more,
  };
}

/** A half's socket: what the relay did to it, and a peer that can hang up before its close is seen. */
export class SocketDouble implements HalfSocket {
  readonly isLink: boolean = false;
  readonly closes: { code: number; reason: string }[] = [];
  gone = false;
  promised = false;

  close(code: number, reason: string): void {
    this.closes.push({ code, reason });
  }

  promise(isPromised = true): void {
    this.promised = isPromised;
  }

  isGone(): boolean {
    return this.gone;
  }

  get code(): number | undefined {
    return this.closes[0]?.code;
  }
}

/** One pair of the forwarder double; it ends when the relay or the test says so, exactly once. */
export class PairDouble implements ForwardedPair {
  readonly user: SocketDouble;
  readonly device: SocketDouble;
  readonly greeting: string;
  readonly options: PairOptions;
  readonly texts: { to: Side; text: string }[] = [];
  ended: { outcome: Outcome; code: number; reason: string; drain: boolean } | undefined;
  #onEnd: ((end: PairEnd) => void) | undefined;

  constructor(
    user: SocketDouble,
    device: SocketDouble,
    greeting: string,
    options: PairOptions,
    onEnd: (end: PairEnd) => void,
  ) {
    this.user = user;
    this.device = device;
    this.greeting = greeting;
    this.options = options;
    this.#onEnd = onEnd;
  }

  get endCode(): number | undefined {
    return this.ended?.code;
  }

  /** Whether the relay asked for what is buffered to be delivered first. */
  get endDrains(): boolean | undefined {
    return this.ended?.drain;
  }

  get running(): boolean {
    return this.#onEnd !== undefined;
  }

  sendText(to: Side, text: string): void {
    this.texts.push({ to, text });
  }

  end(outcome: Outcome, code: number, reason: string, drain = false): void {
    if (this.ended !== undefined || !this.running) return;
    this.ended = { outcome, code, reason, drain };
    queueMicrotask(() => this.over(outcome, 'relay'));
  }

  /** What the forwarder reports when both halves are gone. */
  over(outcome: Outcome, closedBy: Side | 'relay', error = ''): void {
    const onEnd = this.#onEnd;
    this.#onEnd = undefined;
    onEnd?.({ outcome, closedBy, error, statistics: noStatistics });
  }

  statistics(): PairStatistics {
    return noStatistics;
  }
}

export class ForwarderDouble implements Forwarder {
  readonly kind = 'portable';
  readonly pairs: PairDouble[] = [];

  pair(
    user: HalfSocket,
    device: HalfSocket,
    greeting: string,
    options: PairOptions,
    onEnd: (end: PairEnd) => void,
  ): PairDouble {
    const pair = new PairDouble(user as SocketDouble, device as SocketDouble, greeting, options, onEnd);
    this.pairs.push(pair);
    return pair;
  }

  totals() {
    return { ...noStatistics, flowPauses: 0, flowPausedSeconds: 0, throttledSeconds: 0 };
  }
}

/** Everything the relay tells, in order. */
export class ObserverDouble {
  readonly started: Session[] = [];
  readonly ended: { session: Session; end: SessionEnd }[] = [];
  readonly rendezvous: { admission: Admission; outcome: Outcome }[] = [];
  readonly refusals: { newcomer: Admission; refusal: PairingRefusal; waiting: Admission | undefined }[] = [];
  readonly expired: { admission: Admission; heldMs: number }[] = [];
  readonly mismatches: Mismatch[] = [];
  readonly limits: string[] = [];

  sessionStarting(session: Session): void {
    this.started.push(session);
  }
  sessionEnded(session: Session, end: SessionEnd): void {
    this.ended.push({ session, end });
  }
  rendezvousEnded(of: Admission, outcome: Outcome): void {
    this.rendezvous.push({ admission: of, outcome });
  }
  pairingRefused(newcomer: Admission, refusal: PairingRefusal, waiting: Admission | undefined): void {
    this.refusals.push({ newcomer, refusal, waiting });
  }
  holdExpired(of: Admission, heldMs: number): void {
    this.expired.push({ admission: of, heldMs });
  }
  mismatch(_session: Session, mismatch: Mismatch): void {
    this.mismatches.push(mismatch);
  }
  limitHit(limit: string): void {
    this.limits.push(limit);
  }
}

/** The recording of one session, opened or refused when the test says so. */
export class RecordingDouble implements SessionRecording {
  readonly handle = 1;
  readonly strict = true;
  readonly takesText = false;
  readonly file = 'a.mcrec';
  closed = 0;

  append(): boolean {
    return true;
  }
  holdsBack(): boolean {
    return false;
  }
  listen(): void {}
  close(): void {
    this.closed++;
  }
}

/** Records the sessions whose protocol is 1. */
export class RecorderDouble implements SessionRecorder {
  readonly begun: { session: Session; answer: (started: SessionRecording | 'unrecorded' | 'refused') => void }[] = [];

  begin(session: Session): Promise<SessionRecording | 'unrecorded' | 'refused'> | undefined {
    if (session.protocol !== 1) return undefined;
    return new Promise((answer) => this.begun.push({ session, answer }));
  }
}

/** A relay on doubles, with time in the test's hand. */
export class RelayBench {
  readonly forwarder = new ForwarderDouble();
  readonly observer = new ObserverDouble();
  readonly recorder = new RecorderDouble();
  readonly clock: Clock & { monotonic: number; wall: number };
  readonly relay: Relay;
  readonly #tick: (ms: number) => void;

  constructor(t: TestContext, settings: Partial<RelaySettings> = {}) {
    t.mock.timers.reset(); // a test may make several benches, one after the other
    t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    this.#tick = (ms) => t.mock.timers.tick(ms);
    this.clock = {
      monotonic: 1000,
      wall: 1_800_000_000_000,
      monotonicMs() {
        return this.monotonic;
      },
      nowMs() {
        return this.wall;
      },
    };
    const all = { ...defaultSettings, ...settings };
    this.relay = new Relay(all, this.forwarder, this.observer, this.clock, this.recorder);
  }

  /** One long sleep: a single timer call for it all. */
  leap(ms: number): void {
    this.clock.monotonic += ms;
    this.clock.wall += ms;
    this.#tick(ms);
  }

  /** Lets time pass in steps of at most 10 ms, so that a timer sees its own moment. */
  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 10) {
      const step = Math.min(left, 10);
      this.clock.monotonic += step;
      this.clock.wall += step;
      this.#tick(step);
      await Promise.resolve();
    }
  }

  join(of: Admission): Half & { readonly socket: SocketDouble } {
    const half = new Half(of, new SocketDouble()) as Half & { readonly socket: SocketDouble };
    this.relay.join(half);
    return half;
  }

  user(id: string, more: Partial<Admission> = {}, name = 'alice'): Half & { readonly socket: SocketDouble } {
    return this.join(admission(id, userIdentity(name), more));
  }

  device(id: string, more: Partial<Admission> = {}, name = 'alice'): Half & { readonly socket: SocketDouble } {
    return this.join(admission(id, deviceIdentity(name), more));
  }
}
