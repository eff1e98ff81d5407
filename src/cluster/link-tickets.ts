import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import {
  channelAnswerSchema,
  channelDialSchema,
  channelHelloSchema,
  depositSchema,
  type LinkDial,
  linkAnswerSchema,
  linkDialSchema,
  maxAdmissionBytes,
  maxUrlTicketChars,
} from '../protocol/link-messages.ts';
import type { Admission } from '../relay/half.ts';
import { type LinkSeal, newChallenge } from './link-seal.ts';

/** What a link is dialled for; `challenge` came with the owner's answer to the presentation. */
export interface LinkRequest {
  readonly challenge: string;
  readonly fence: number;
  /** How long the half has waited. */
  readonly waitedMs: number;
  readonly admission: Admission;
}

/** A link that was let in: whose it is, and the half that it stands for. */
export interface AcceptedLink {
  readonly boot: string;
  readonly fence: number;
  readonly waitedMs: number;
  readonly admission: Admission;
  /** For the header of the 101. */
  readonly proof: string;
}

/** Why a link or a channel was not let in; a word for `couplet_link_failures_total`. */
export type TicketFault = 'forged' | 'direction' | 'boot' | 'challenge' | 'id' | 'admission';

/** A ticket on its way, and what the answer to it must prove. */
export interface IssuedTicket {
  readonly text: string;
  /** Whether the admission is not in it and has to be deposited first. */
  readonly deposit: { readonly challenge: string; readonly admission: Admission } | undefined;
  /** True for the header of an answer to this very ticket. */
  proves(answer: string): boolean;
}

interface Expected {
  readonly boot: string;
  readonly domain: string;
  readonly id: string;
  /** Monotonic. */
  readonly dueMs: number;
  admission?: Admission | undefined;
}

export interface TicketOptions {
  readonly seal: LinkSeal;
  /** This server's boot id. */
  readonly boot: string;
  readonly clock: Clock;
  /** How many links may be expected at once. */
  readonly maxExpected?: number;
}

/**
 * [K3] Tickets and proofs of links and channels. No clock of another server counts: a proof holds for the one connection
 * whose challenge it is over.
 */
export class LinkTickets {
  readonly #seal: LinkSeal;
  readonly #boot: string;
  readonly #clock: Clock;
  readonly #maxExpected: number;
  /** By challenge, in the order in which they were given out. */
  readonly #expected = new Map<string, Expected>();

  constructor({ seal, boot, clock, maxExpected = 20_000 }: TicketOptions) {
    this.#seal = seal;
    this.#boot = boot;
    this.#clock = clock;
    this.#maxExpected = maxExpected;
  }

  get expectedCount(): number {
    return this.#expected.size;
  }

  /**
   * The owner gives out a challenge for one link of server `boot` with this id; it holds once and for `withinMs`.
   * @throws CoupletError `CPL_LINK` where too many are expected already
   */
  expect(link: { readonly boot: string; readonly domain: string; readonly id: string }, withinMs = 10_000): string {
    const nowMs = this.#clock.monotonicMs();
    // Others than the oldest may be due, when deadlines differ; those are found when they are used.
    for (const [challenge, { dueMs }] of this.#expected) {
      if (dueMs > nowMs) break;
      this.#expected.delete(challenge);
    }
    if (this.#expected.size >= this.#maxExpected) {
      throw new CoupletError('CPL_LINK', `${this.#maxExpected} links are expected already: no more are`);
    }
    const challenge = newChallenge();
    const { boot, domain, id } = link;
    this.#expected.set(challenge, { boot, domain, id, dueMs: nowMs + withinMs });
    return challenge;
  }

  /**
   * Takes an admission that is too long for a URL; the body comes over the channel of server `boot`.
   * @throws CoupletError `CPL_LINK` where nothing of the kind is expected
   */
  deposit(body: unknown, boot: string): void {
    const parsed = depositSchema.safeParse(body);
    const expected = parsed.success ? this.#pending(parsed.data.challenge) : undefined;
    if (expected?.boot !== boot || !parsed.success || !fits(parsed.data.admission, expected)) {
      throw new CoupletError('CPL_LINK', 'the admission belongs to no link that is expected');
    }
    expected.admission = parsed.data.admission as Admission;
  }

  /** The dialler's ticket for the owner `to`. @throws CoupletError `CPL_LINK` where the admission is too long */
  issue(to: string, request: LinkRequest): IssuedTicket {
    const { challenge, fence, waitedMs, admission } = request;
    const bytes = Buffer.byteLength(JSON.stringify(admission));
    if (bytes > maxAdmissionBytes) {
      const text = `the half's admission has ${bytes} bytes: a link takes at most ${maxAdmissionBytes}`;
      throw new CoupletError('CPL_LINK', text);
    }
    const reply = newChallenge();
    const { domain, id } = admission;
    const dial = { dir: 'dial', kind: 'link', from: this.#boot, to, challenge, reply, domain, id, fence, waitedMs };
    const whole = this.#seal.seal({ ...dial, admission });
    const isLong = whole.length > maxUrlTicketChars;
    return {
      text: isLong ? this.#seal.seal(dial) : whole,
      deposit: isLong ? { challenge, admission } : undefined,
      proves: (answer) => {
        const proof = this.#seal.open(answer, linkAnswerSchema);
        return proof !== undefined && proof.from === to && proof.to === this.#boot && proof.challenge === reply;
      },
    };
  }

  /** The owner looks at a ticket. One that is in order has used its challenge up. */
  accept(text: string): AcceptedLink | TicketFault {
    const dial = this.#seal.open(text, linkDialSchema);
    if (dial === undefined) return this.#seal.open(text, linkAnswerSchema) === undefined ? 'forged' : 'direction';
    if (dial.to !== this.#boot) return 'boot';
    const expected = this.#pending(dial.challenge);
    if (expected === undefined) return 'challenge';
    this.#expected.delete(dial.challenge);
    if (expected.boot !== dial.from) return 'boot';
    if (expected.domain !== dial.domain || expected.id !== dial.id) return 'id';
    const admission = (dial.admission as Admission | undefined) ?? expected.admission;
    if (admission === undefined || !fits(admission, expected)) return 'admission';
    const { from, fence, waitedMs } = dial;
    return { boot: from, fence, waitedMs, admission, proof: this.#answer(dial) };
  }

  #answer({ from, reply }: LinkDial): string {
    return this.#seal.seal({ dir: 'answer', kind: 'link', from: this.#boot, to: from, challenge: reply });
  }

  #pending(challenge: string): Expected | undefined {
    const expected = this.#expected.get(challenge);
    if (expected === undefined || expected.dueMs > this.#clock.monotonicMs()) return expected;
    this.#expected.delete(challenge);
    return undefined;
  }

  // -- the peer channel -----------------------------------------------------------------------------------------------

  /** What the dialler puts into the URL, over a challenge of its own. */
  hello(to: string, challenge: string): string {
    return this.#seal.seal({ dir: 'hello', kind: 'channel', from: this.#boot, to, challenge });
  }

  /** Who dials, and its challenge; `undefined` where a stranger does. It may be a repetition: nothing is proven by it. */
  heard(hello: string): { readonly from: string; readonly challenge: string } | undefined {
    const heard = this.#seal.open(hello, channelHelloSchema);
    return heard?.to === this.#boot ? heard : undefined;
  }

  /** Who is dialled by `from` proves itself over the dialler's challenge; `next` is what the dialler has to prove. */
  answerChannel(from: string, challenge: string): { readonly proof: string; readonly next: string } {
    const next = newChallenge();
    const proof = this.#seal.seal({ dir: 'answer', kind: 'channel', from: this.#boot, to: from, challenge, next });
    return { proof, next };
  }

  /** The dialler's first message, made out of the answer of `to`; `undefined` where that proves nothing. */
  proveChannel(answer: string, to: string, challenge: string): string | undefined {
    const proof = this.#seal.open(answer, channelAnswerSchema);
    if (proof?.from !== to || proof.to !== this.#boot || proof.challenge !== challenge) return undefined;
    return this.#seal.seal({ dir: 'dial', kind: 'channel', from: this.#boot, to, challenge: proof.next });
  }

  /** Whether a dialler's first message is server `from`'s, made for this connection. */
  isChannelProof(text: string, from: string, next: string): boolean {
    const proof = this.#seal.open(text, channelDialSchema);
    return proof !== undefined && proof.from === from && proof.to === this.#boot && proof.challenge === next;
  }
}

function fits(admission: { readonly domain: string; readonly id: string }, to: Expected): boolean {
  return admission.domain === to.domain && admission.id === to.id;
}
