import { z } from 'zod';
import type { Clock } from '../core/clock.ts';
import type { HalfSocket } from '../relay/half.ts';
import type { Rendezvous as At, Relay } from '../relay/relay.ts';
import type { Half } from '../relay/session.ts';
import type { ClaimText } from './claim.ts';

/** The claims in Redis; each call has a deadline and rejects past it. A call that was given up may still be carried out. */
export interface ClaimStore {
  /** Sets where nothing stands; the value that stands otherwise. */
  claim(key: string, value: string, ttlMs: number): Promise<string | undefined>;
  /** Sets where nothing, `value` itself or `instead` stands; the value that stands otherwise. */
  take(key: string, value: string, ttlMs: number, instead?: string): Promise<string | undefined>;
  /** Deletes where `value` stands. */
  release(key: string, value: string): Promise<void>;
}

/** What a half is presented with to the server that owns its id. */
export interface Presentation extends At {
  readonly fence: number;
  /** The other server's, single use [K3]. */
  readonly challenge: string;
  /** How long the half has waited already, milliseconds. */
  readonly waitedMs: number;
}

export interface RendezvousParts {
  /** This server's boot id. */
  readonly boot: string;
  readonly relay: Pick<
    Relay,
    | 'accepts'
    | 'join'
    | 'startJoining'
    | 'startLinked'
    | 'withdraw'
    | 'turnAway'
    | 'expireHold'
    | 'endSession'
    | 'pairing'
  >;
  readonly store: ClaimStore;
  readonly redis: { readonly isUp: boolean; readonly epoch: number; readonly beatMs: number };
  /** `refresh` renews this server's registration, and reads the others'. */
  readonly servers: { has(boot: string): boolean; refresh(): Promise<void> };
  /** Asks the server that owns an id whether it takes a half: see {@link Rendezvous.expect}. Rejects past a deadline. */
  ask(boot: string, body: At & { readonly fence: number }): Promise<unknown>;
  /** Asks the server that has claimed an id to give it up: see {@link Rendezvous.resign}. Rejects past a deadline. */
  askResign(boot: string, body: At & { readonly fence: number }): Promise<unknown>;
  /** Opens a link to the owner that stands for the half. */
  dial(boot: string, half: Half, presentation: Presentation): Promise<HalfSocket>;
  /** Forwards between a half and its link from now on. */
  carry(half: Half, link: HalfSocket, boot: string, hardClose: boolean): void;
  /** Mints a challenge for a half that a server is about to present. */
  challenge(boot: string, at: At): string;
  seal(key: string, text: ClaimText): string;
  /** `undefined` where it does not open. */
  unseal(key: string, value: string): unknown;
  readonly clock: Clock;
  holdMs(): number;
  readonly heartbeatMs: number;
  pause(ms: number): Promise<void>;
}

/** What a server answers that is asked whether it takes a half. */
export const presentAnswer = z.union([
  z.strictObject({ stale: z.literal(true) }),
  /** `hardClose`: the half that waits there asks for it, and so it holds for both (R24). */
  z.strictObject({ challenge: z.string().min(1).max(128), hardClose: z.boolean() }),
]);

export type PresentAnswer = z.infer<typeof presentAnswer>;
