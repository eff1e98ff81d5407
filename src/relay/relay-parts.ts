import type { Outcome } from '../core/outcome.ts';
import type { Admission } from './half.ts';
import type { PairingRefusal } from './pairing.ts';
import type { Half, Mismatch, Session, SessionEnd } from './session.ts';

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

/** Who seeks halves' rendezvous on other servers [K2], and is told of what happens here. */
export interface WiderRendezvous {
  /** A half that is joining has left or was turned away. */
  gone(half: Half): void;
  /** Nobody waits at this id any more, and no session has it. */
  freed(at: Rendezvous): void;
}

/** What two halves have in common. */
export type Rendezvous = Pick<Admission, 'domain' | 'id'>;
