import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { Rendezvous as At } from '../relay/relay.ts';
import type { Half } from '../relay/session.ts';

/** What a claim says in Redis, sealed [K2]. */
export interface ClaimText {
  readonly boot: string;
  readonly fence: number;
}

const claimText = z.strictObject({ boot: z.string().min(1).max(64), fence: z.int().positive() });

/** A half that is to meet its mate, wherever that is. */
export interface Joiner {
  readonly half: Half;
  /** Called once: the half waits here, was paired, was turned away, or is linked to another server. */
  readonly settled: () => void;
  /** It is settled, or has left. */
  over: boolean;
  /** How often its rendezvous was sought in vain, and since when its owner cannot be reached, monotonic milliseconds. */
  tries: number;
  unreachableSinceMs: number | undefined;
}

/**
 * An id that this server has, or is about to have. `new`: Redis was not asked yet; `standing`: the claim is there;
 * `unclaimed`: Redis could not be asked, or another server holds it although a session has the id here.
 */
export class Claim {
  state: 'new' | 'standing' | 'unclaimed' = 'new';
  /** Redis is being asked: halves that come wait for the answer. */
  busy = false;
  readonly queue: Joiner[] = [];
  /** Halves that other servers are about to present, and until when they are waited for, monotonic milliseconds. */
  expected = 0;
  expectedUntilMs = 0;
  /** Of Redis when it was last seen to stand, when that was asked (monotonic milliseconds), and for how long. */
  epoch = -1;
  askedMs = 0;
  ttlMs = 0;
  /** The value of a dead or stale claim that it may take the place of. */
  instead: string | undefined;
  /** The last numbers that it has had, which this server never uses twice, and the sealed text with the newest one. */
  readonly fences = new Set<number>();
  value = '';
  readonly at: At;
  readonly key: string;

  constructor(at: At, key: string) {
    this.at = at;
    this.key = key;
  }
}

/** The place of an id's claim in Redis. Ids are not readable there. */
export function claimKey({ domain, id }: At): string {
  return `claim:${createHash('sha256').update(`${domain}\0${id}`).digest('base64url')}`;
}

/** `undefined`: it is none of ours; whoever wrote it has another login key. */
export function readClaim(opened: unknown): ClaimText | undefined {
  const parsed = claimText.safeParse(opened);
  return parsed.success ? parsed.data : undefined;
}
