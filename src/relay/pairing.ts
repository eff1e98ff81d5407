import type { Outcome } from '../core/outcome.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import type { Identity, Side } from './half.ts';

/** What pairing looks at: no socket, no clock, no protocol. */
export interface Candidate {
  readonly domain: string;
  readonly id: string;
  readonly identity: Identity;
  readonly browser: boolean;
  /** Whether the peer has hung up although its socket's close was not seen yet (fault 4). */
  isGone(): boolean;
}

export interface PairingOptions {
  /** Two user halves of the same user do not pair (R17). */
  readonly strictSides: boolean;
  /** Takes the place of both halves' user ids when they are compared (R11); empty: off. */
  readonly defaultUser: string;
}

/** Why a newcomer is closed; the rendezvous it asked for goes on untouched. */
export interface PairingRefusal {
  readonly outcome: Outcome;
  readonly code: number;
  readonly reason: string;
}

export type Arrival<H> =
  | { readonly verdict: 'wait' }
  | { readonly verdict: 'pair'; readonly waiting: H; readonly user: H; readonly device: H }
  | ({ readonly verdict: 'refuse' } & PairingRefusal);

type State = 'absent' | 'waiting' | 'paired';
type PairingEvent = 'arrive' | 'leave' | 'end';

/**
 * The rendezvous of one (domain, id) as a table: what each event does in each state. `judge`: the two halves decide
 * (R16, R17) whether it is `pair` or a refusal of the newcomer. An event that has no entry changes nothing: a half
 * that leaves after its pair was made is the session's affair.
 */
const table: Record<State, Partial<Record<PairingEvent, 'wait' | 'judge' | 'refuse-third' | 'forget'>>> = {
  absent: { arrive: 'wait' },
  waiting: { arrive: 'judge', leave: 'forget' },
  paired: { arrive: 'refuse-third', end: 'forget' },
};

const denied = (reason: string): PairingRefusal => ({ outcome: 'denied', code: closeCodes.denied, reason });
const third: PairingRefusal = { outcome: 'duplicate', code: closeCodes.duplicate, reason: 'session id in use' };

/** The user a half stands for when two halves are compared (R11, R16). */
function comparedUser(identity: Identity, defaultUser: string): string {
  return defaultUser === '' ? identity.userid : defaultUser.toLowerCase();
}

/**
 * R16, R17 and the pair-level part of R13: whether two halves may meet; `undefined` where they may. That each of them
 * may name this id at all was settled at admission.
 */
export function judge(waiting: Candidate, newcomer: Candidate, options: PairingOptions): PairingRefusal | undefined {
  const a = waiting.identity;
  const b = newcomer.identity;
  if (waiting.id.startsWith('meshmessenger/')) {
    if (a.side === 'device' && b.side === 'device') return denied('two device halves');
    if (a.side === 'user' && b.side === 'user' && a.userid === b.userid) return denied('the same messenger party');
    return undefined;
  }
  if (a.side === 'device' && b.side === 'device') return denied('two device halves');
  if (a.kind === 'nouser' || b.kind === 'nouser') return undefined;
  if (a.kind === 'anonymous' || b.kind === 'anonymous') return denied('not authenticated');
  if (comparedUser(a, options.defaultUser) !== comparedUser(b, options.defaultUser)) return denied('another user');
  if (options.strictSides && a.side === 'user' && b.side === 'user') {
    return { outcome: 'duplicate', code: closeCodes.duplicate, reason: 'relay.strictSides: two user halves' };
  }
  return undefined;
}

/** With two user halves the one with `browser=1` is the user's, else the first (M1). */
function userOf<H extends Candidate>(waiting: H, newcomer: H): H {
  const side = (half: H): Side => half.identity.side;
  if (side(waiting) !== side(newcomer)) return side(waiting) === 'user' ? waiting : newcomer;
  return newcomer.browser && !waiting.browser ? newcomer : waiting;
}

/**
 * Who waits and which ids are taken, by (domain, id). Synchronous throughout: whatever the order of arrivals, leaves
 * and ends, each call sees the whole of the one before, so a pair is made exactly once (R19).
 */
export class Pairing<H extends Candidate> {
  options: PairingOptions;
  readonly #waiting = new Map<string, H>();
  readonly #paired = new Set<string>();

  constructor(options: PairingOptions) {
    this.options = options;
  }

  static key(half: { readonly domain: string; readonly id: string }): string {
    return `${half.domain}\0${half.id}`;
  }

  /** Whether a half that names this id now would wait; else it meets one that waits, or is one too many (R18). */
  wouldWait(half: { readonly domain: string; readonly id: string }): boolean {
    return this.#state(Pairing.key(half)) === 'absent';
  }

  /** The half that waits at this id. */
  waitingAt(half: { readonly domain: string; readonly id: string }): H | undefined {
    return this.#waiting.get(Pairing.key(half));
  }

  /**
   * A half is admitted. After `wait` and `pair` the rendezvous stands; after `refuse` nothing has changed.
   * @param veto asked last, when the two may meet by the rules; a refusal keeps the waiting half's place.
   */
  arrive(newcomer: H, veto: (user: H, device: H) => PairingRefusal | undefined = () => undefined): Arrival<H> {
    const key = Pairing.key(newcomer);
    let waiting = this.#waiting.get(key);
    if (waiting?.isGone()) {
      this.#waiting.delete(key);
      waiting = undefined;
    }
    const step = table[this.#state(key)].arrive;
    if (step === 'refuse-third') return { verdict: 'refuse', ...third };
    if (step === 'wait' || waiting === undefined) {
      this.#waiting.set(key, newcomer);
      return { verdict: 'wait' };
    }
    const user = userOf(waiting, newcomer);
    const device = user === waiting ? newcomer : waiting;
    const refusal = judge(waiting, newcomer, this.options) ?? veto(user, device);
    if (refusal !== undefined) return { verdict: 'refuse', ...refusal };
    this.#waiting.delete(key);
    this.#paired.add(key);
    return { verdict: 'pair', waiting, user, device };
  }

  /** A half hung up, or its hold expired; true where it was the waiting one. */
  leave(half: H): boolean {
    const key = Pairing.key(half);
    if (table[this.#state(key)].leave !== 'forget' || this.#waiting.get(key) !== half) return false;
    return this.#waiting.delete(key);
  }

  /** A pair's session ended: its id is free again. */
  end(half: { readonly domain: string; readonly id: string }): void {
    const key = Pairing.key(half);
    if (table[this.#state(key)].end === 'forget') this.#paired.delete(key);
  }

  get waitingCount(): number {
    return this.#waiting.size;
  }

  waiting(): Iterable<H> {
    return this.#waiting.values();
  }

  #state(key: string): State {
    return this.#paired.has(key) ? 'paired' : this.#waiting.has(key) ? 'waiting' : 'absent';
  }
}
