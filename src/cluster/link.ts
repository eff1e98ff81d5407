import { closeCodes } from '../protocol/close-codes.ts';
import { depositMethod } from '../protocol/link-messages.ts';
import type { ForwardedPair, Forwarder, PairEnd, PairOptions } from '../relay/forwarder.ts';
import type { NativeSocket } from '../relay/native-forwarder.ts';
import type { RelaySettings } from '../relay/relay.ts';
import type { Half } from '../relay/session.ts';
import type { LinkSocket } from './link-socket.ts';
import type { LinkTickets } from './link-tickets.ts';
import type { PeerChannels } from './peers.ts';

/** The relay's settings that hold for links too. */
export type LinkSettings = Pick<
  RelaySettings,
  'highWaterBytes' | 'lowWaterBytes' | 'maxMessageBytes' | 'stallMs' | 'lingerMs' | 'wsPingSeconds'
>;

export interface LinkParts {
  /** Forwarders of the links alone, so that their bytes are counted apart; `native` where the addon forwards. */
  readonly native: Forwarder | undefined;
  readonly portable: Forwarder;
  readonly peers: Pick<PeerChannels, 'hold' | 'onLost' | 'serve'>;
  readonly tickets: LinkTickets;
  /** Read as each link starts. */
  settings(): LinkSettings;
  /** The server is lost that had linked this half to here: the half's session ends with `peer-error`. */
  incomingLost(half: Half): void;
}

interface OutgoingLink {
  readonly half: Half;
  readonly boot: string;
  pair: ForwardedPair | undefined;
}

/** setTimeout's longest delay, milliseconds. */
const maxDelayMs = 2_147_483_647;
/** Every forwarder closes its sockets by its own deadlines; after those, so much longer for a broken one. */
const lastMs = 1000;
/** In this time a session's own server has ended what a change of rights ends. */
const ownerRevokesMs = 500;

/**
 * [K3] [K7] The links of this server. Outgoing: a half is here and its session is another server's; what it sends goes
 * there as it is. Incoming: a half is elsewhere and its session is here; the relay has it, here it is only known by its
 * server.
 */
export class Links {
  /** Links that did not come about, by reason. */
  readonly failures = new Map<string, number>();
  readonly #parts: LinkParts;
  readonly #out = new Map<Half, OutgoingLink>();
  readonly #in = new Map<Half, string>();
  /** By server: how many outgoing links there are, and what lets its channel go. */
  readonly #servers = new Map<string, { links: number; readonly release: () => void }>();
  readonly #revoking = new Set<{ readonly left: Set<Half>; readonly done: () => void }>();
  #emptied: (() => void)[] = [];

  constructor(parts: LinkParts) {
    this.#parts = parts;
    parts.peers.onLost((boot) => this.lost(boot));
    parts.peers.serve(depositMethod, (body, boot) => parts.tickets.deposit(body, boot));
  }

  get outgoing(): number {
    return this.#out.size;
  }

  get incoming(): number {
    return this.#in.size;
  }

  /** What has gone through the links that this server dialled, since its start. */
  totals(): { readonly bytesToPeer: number; readonly bytesFromPeer: number; readonly bufferedBytes: number } {
    const sums = { bytesToPeer: 0, bytesFromPeer: 0, bufferedBytes: 0 };
    for (const forwarder of [this.#parts.native, this.#parts.portable]) {
      if (forwarder === undefined) continue;
      const { bytesUserToDevice, bytesDeviceToUser, bufferedBytes } = forwarder.totals();
      sums.bytesToPeer += bytesUserToDevice;
      sums.bytesFromPeer += bytesDeviceToUser;
      sums.bufferedBytes += bufferedBytes;
    }
    return sums;
  }

  /** A link did not come about. */
  failed(reason: string): void {
    this.failures.set(reason, (this.failures.get(reason) ?? 0) + 1);
  }

  /**
   * The half's session is server `boot`'s: from now on the two sockets are one way. The link's position is always that
   * of the device, whichever the half's is: a link has neither greeting nor pace nor recording, and so it does not matter.
   * @param hardClose the half's mate asks for it (R24)
   * @returns false where the half is gone; the link is closed then
   */
  carry(half: Half, link: LinkSocket, boot: string, hardClose = false): boolean {
    if (half.state === 'closed' || half.isGone()) {
      link.close(closeCodes.peerError, 'peer connection lost');
      return false;
    }
    half.state = 'linked';
    const outgoing: OutgoingLink = { half, boot, pair: undefined };
    this.#out.set(half, outgoing);
    this.#hold(boot);
    const { native, portable } = this.#parts;
    const isNative = native !== undefined && isHeld(link) && isHeld(half.socket);
    const onEnd = (_end: PairEnd) => this.#over(outgoing);
    const pair = (isNative ? native : portable).pair(half.socket, link, '', this.#options(half, hardClose), onEnd);
    // An end may come while the pair is being made.
    if (this.#out.has(half)) outgoing.pair = pair;
    return true;
  }

  /** A link from server `boot` has come, and stands for this half. */
  arrived(half: Half, boot: string): void {
    this.#in.set(half, boot);
  }

  /** The socket of a half that is linked to here is closed. */
  left(half: Half): void {
    this.#in.delete(half);
  }

  /** [K7] A server is lost: what is linked there and what is linked from there ends. */
  lost(boot: string): void {
    for (const outgoing of this.#out.values()) {
      // A half that was handed on from here may itself have come from the server that is lost.
      const isLost = outgoing.boot === boot || this.#in.get(outgoing.half) === boot;
      if (isLost) outgoing.pair?.end('peer-error', closeCodes.peerError, 'its server died');
    }
    for (const [half, from] of this.#in) if (from === boot) this.#parts.incomingLost(half);
  }

  /** Halves that are carried from here to other servers. */
  carried(): Iterable<Half> {
    return this.#out.keys();
  }

  /**
   * [T4] Carried halves have lost their right. Their sessions' servers end the sessions and put that on record; where one
   * looked before the half had come, the link ends here. Resolves when all are ended.
   */
  revoke(halves: readonly Half[]): Promise<void> {
    const left = new Set(halves.filter((half) => this.#out.has(half)));
    if (left.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#revoking.delete(revoking);
        resolve();
      };
      const revoking = { left, done };
      const timer = setTimeout(() => {
        for (const half of [...left]) this.#out.get(half)?.pair?.end('revoked', closeCodes.revoked, 'revoked');
        done();
      }, ownerRevokesMs);
      this.#revoking.add(revoking);
    });
  }

  /**
   * Waits up to `drainMs` for the outgoing links to end, then ends the rest with 1001 spread over `spreadMs` (R39). What
   * is buffered is still delivered. Aborting the signal skips the wait, the spreading and the delivery.
   */
  async drain(drainMs: number, spreadMs: number, signal: AbortSignal): Promise<void> {
    await this.empty(drainMs, signal);
    const left = [...this.#out.values()];
    const stepMs = left.length === 0 ? 0 : spreadMs / left.length;
    let aheadMs = 0;
    for (const { pair } of left) {
      pair?.end('shutdown', closeCodes.goingAway, 'server going away', !signal.aborted);
      aheadMs += stepMs;
      if (aheadMs < 10 || signal.aborted) continue;
      await this.empty(aheadMs, signal);
      aheadMs = 0;
    }
    await this.empty(Math.max(this.#parts.settings().lingerMs, 2000) + lastMs, new AbortController().signal);
  }

  /** Resolves when there is no outgoing link, after `withinMs` at the latest, or when the signal is aborted. */
  empty(withinMs: number, signal: AbortSignal): Promise<void> {
    if (this.#out.size === 0 || withinMs <= 0 || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, Math.min(withinMs, maxDelayMs));
      signal.addEventListener('abort', done);
      this.#emptied.push(done);
    });
  }

  #options({ admission }: Half, hardClose: boolean): PairOptions {
    const s = this.#parts.settings();
    return {
      highWaterBytes: s.highWaterBytes,
      lowWaterBytes: s.lowWaterBytes,
      maxMessageBytes: s.maxMessageBytes,
      // Idle sessions and paces are the owner's affair.
      idleMs: 0,
      bytesPerSecond: 0,
      stallMs: s.stallMs,
      lingerMs: s.lingerMs,
      pingMs: s.wsPingSeconds * 1000,
      hardClose: admission.hardClose || hardClose,
    };
  }

  #hold(boot: string): void {
    const server = this.#servers.get(boot);
    if (server !== undefined) server.links++;
    else this.#servers.set(boot, { links: 1, release: this.#parts.peers.hold(boot) });
  }

  #over(outgoing: OutgoingLink): void {
    if (!this.#out.delete(outgoing.half)) return;
    outgoing.half.state = 'closed';
    for (const { left, done } of this.#revoking) if (left.delete(outgoing.half) && left.size === 0) done();
    const server = this.#servers.get(outgoing.boot);
    if (server !== undefined && --server.links === 0) {
      this.#servers.delete(outgoing.boot);
      server.release();
    }
    if (this.#out.size === 0) for (const resolve of this.#emptied.splice(0)) resolve();
  }
}

function isHeld(socket: object): boolean {
  return ((socket as Partial<NativeSocket>).nativeId ?? 0) !== 0;
}
