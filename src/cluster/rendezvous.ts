import { closeCodes } from '../protocol/close-codes.ts';
import type { Rendezvous as At, WiderRendezvous } from '../relay/relay.ts';
import type { Half } from '../relay/session.ts';
import { Claim, type ClaimText, claimKey, type Joiner, readClaim } from './claim.ts';
import { type PresentAnswer, presentAnswer, type RendezvousParts } from './rendezvous-parts.ts';

/** How long a server waits for a half that it has said it takes; a ticket is good for a little less. */
export const expectMs = 11_000;
/** A claim of a session's lasts this long, and is renewed in time; that of a waiting half `relay.holdMs` and this. */
const sessionClaimMs = 600_000;
const waitingSlackMs = 10_000;
/** How often the claim of a half that waits is looked after, as a failover may have lost it, or one that is in doubt. */
const lookMs = 2000;
const sweepMs = 1000;
/** Claims looked after at the same time: few, as whoever claims an id meanwhile waits behind them, with a deadline. */
const maxLooks = 100;
/** Numbers of a claim that its server still answers for: who has read an older one is told to look again. */
const maxFences = 8;

/**
 * [K2] Where halves meet in a cluster. A half whose id nobody has here claims it in Redis; where another server has it,
 * the half is presented to that one over a link. The owner decides from its own table: Redis says who to ask.
 *
 * An id is in `#claims` exactly as long as this server has it: one of its halves waits, joins or is expected, or its
 * session runs. Fencing: a claim's value names boot and fence, a fence is never used twice, and every change in Redis
 * compares the whole value. So what was claimed once and given up can never be taken for what stands now, however late
 * a command is carried out.
 */
export class Rendezvous implements WiderRendezvous {
  readonly counts = { local: 0, claimed: 0, linked: 0, unclaimed: 0, handed_over: 0, failed: 0 };
  /** Sessions whose id another server has claimed; two pairs of one id are possible then. */
  conflicts = 0;
  readonly #parts: RendezvousParts;
  readonly #claims = new Map<string, Claim>();
  readonly #joiners = new Map<Half, Joiner>();
  #nextFence = 1;
  #isLooking = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: RendezvousParts) {
    this.#parts = parts;
  }

  get claimCount(): number {
    return this.#claims.size;
  }

  /** Looks after claims and joining halves from now on. */
  start(): void {
    const everyMs = Math.min(sweepMs, this.#parts.holdMs() / 4);
    this.#timer ??= setInterval(() => this.sweep(), everyMs).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** An admitted half's WebSocket is open and held: it meets its mate here or elsewhere, waits, or is turned away. */
  enter(half: Half, settled: () => void = () => {}): void {
    const { relay } = this.#parts;
    const claim = this.#claims.get(claimKey(half.admission));
    const isHere = claim !== undefined && !claim.busy && this.#mayDecide(claim);
    if (isHere || !relay.accepts) {
      if (isHere) this.counts.local++;
      relay.join(half);
      return settled();
    }
    relay.startJoining(half);
    // What it has sent, and its goodbye, are for its mate: that may be there already.
    half.socket.promise();
    const joiner: Joiner = { half, settled, over: false, tries: 0, unreachableSinceMs: undefined };
    this.#joiners.set(half, joiner);
    this.#seek(joiner);
  }

  /**
   * Another server asks whether a half of this id may be presented: yes where the claim it has read is the one that
   * stands here now. It is expected then: the id stays this server's until it has come.
   * @throws what minting a challenge throws
   */
  expect(boot: string, { domain, id, fence }: At & { readonly fence: number }): PresentAnswer {
    const claim = this.#claims.get(claimKey({ domain, id }));
    if (!claim?.fences.has(fence)) return { stale: true };
    // A link would be refused: who asks takes the id, and meets whoever comes for it where halves are taken.
    const { relay } = this.#parts;
    if (!relay.accepts && relay.pairing.wouldWait({ domain, id })) return { stale: true };
    const challenge = this.#parts.challenge(boot, { domain, id });
    claim.expected++;
    claim.expectedUntilMs = this.#parts.clock.monotonicMs() + expectMs;
    const hardClose = relay.pairing.waitingAt({ domain, id })?.admission.hardClose ?? false;
    return { challenge, hardClose };
  }

  /** Another server has a session of this id. Where none runs here its halves are sought elsewhere, and the claim is its. */
  resign({ domain, id, fence }: At & { readonly fence: number }): 'paired' | 'resigned' {
    const at = { domain, id };
    if (this.#isPaired(at)) return 'paired';
    const claim = this.#claims.get(claimKey(at));
    if (claim?.fences.has(fence)) for (const joiner of this.#giveUp(claim)) void this.#again(joiner);
    return 'resigned';
  }

  /** A half that was expected is here, as a link; `enter` where it is not to be taken in as any other. */
  presented(
    half: Half,
    { fence, waitedMs }: { readonly fence: number; readonly waitedMs: number },
    enter: (half: Half) => void = (open) => this.enter(open),
  ): void {
    const claim = this.#claims.get(claimKey(half.admission));
    half.arrivedMs = this.#parts.clock.monotonicMs() - waitedMs;
    if (claim?.fences.has(fence) && claim.expected > 0) claim.expected--;
    enter(half);
    if (claim !== undefined) this.#freeIfUnused(claim);
  }

  gone(half: Half): void {
    const joiner = this.#joiners.get(half);
    if (joiner === undefined) return;
    this.#finish(joiner);
    joiner.settled();
  }

  freed(at: At): void {
    const claim = this.#claims.get(claimKey(at));
    if (claim !== undefined) this.#freeIfUnused(claim);
  }

  /** Renews claims, sees to those that Redis may have lost, and ends what has lasted too long. */
  sweep(): void {
    const { clock, relay, redis, holdMs } = this.#parts;
    const nowMs = clock.monotonicMs();
    const due: Claim[] = [];
    for (const { half } of [...this.#joiners.values()]) {
      if (nowMs - half.arrivedMs < holdMs()) continue;
      this.counts.failed++;
      relay.expireHold(half);
    }
    for (const claim of this.#claims.values()) {
      if (claim.expected > 0 && claim.expectedUntilMs < nowMs) {
        claim.expected = 0;
        this.#freeIfUnused(claim);
      } else if (redis.isUp && !claim.busy && this.#isDue(claim, nowMs)) due.push(claim);
    }
    if (!this.#isLooking && due.length > 0) void this.#lookAfter(due);
  }

  /** Never rejects. */
  async #lookAfter(due: readonly Claim[]): Promise<void> {
    this.#isLooking = true;
    for (let from = 0; from < due.length && this.#parts.redis.isUp; from += maxLooks) {
      const some = due
        .slice(from, from + maxLooks)
        .filter((claim) => !claim.busy && this.#claims.get(claim.key) === claim);
      await Promise.all(some.map((claim) => this.#settle(claim)));
    }
    this.#isLooking = false;
  }

  #isDue(claim: Claim, nowMs: number): boolean {
    if (claim.epoch !== this.#parts.redis.epoch) return claim.state !== 'unclaimed' || nowMs - claim.askedMs >= sweepMs;
    const isSettled = claim.state === 'standing' && !this.#isWaiting(claim.at);
    const everyMs = isSettled ? claim.ttlMs / 3 : lookMs;
    return nowMs - claim.askedMs >= everyMs;
  }

  /**
   * Whether halves may meet here without asking Redis: the claim stands for certain, which it does not where Redis may
   * have lost it, or others may have taken this server for dead. While Redis is down whoever is here may meet [K6].
   */
  #mayDecide(claim: Claim): boolean {
    const { redis, clock } = this.#parts;
    if (!redis.isUp) return true;
    const nowMs = clock.monotonicMs();
    return (
      claim.state === 'standing' &&
      claim.epoch === redis.epoch &&
      this.#isRegistered() &&
      nowMs - claim.askedMs < claim.ttlMs
    );
  }

  /** Whether no other server can have taken this one for dead. */
  #isRegistered(): boolean {
    const { redis, clock, heartbeatMs } = this.#parts;
    return clock.monotonicMs() - redis.beatMs < heartbeatMs;
  }

  #seek(joiner: Joiner, instead?: string): void {
    const at = joiner.half.admission;
    const key = claimKey(at);
    let claim = this.#claims.get(key);
    if (claim === undefined) {
      const { domain, id } = at;
      claim = new Claim({ domain, id }, key);
      this.#fence(claim);
      claim.instead = instead;
      this.#claims.set(key, claim);
    } else if (!claim.busy && this.#mayDecide(claim)) {
      this.counts.local++;
      return this.#joinHere(joiner);
    }
    claim.queue.push(joiner);
    if (!claim.busy) void this.#settle(claim);
  }

  /** A new value for a claim, that nobody can have read. */
  #fence(claim: Claim): void {
    const { seal, boot } = this.#parts;
    const fence = this.#nextFence++;
    claim.fences.add(fence);
    const [oldest] = claim.fences;
    if (claim.fences.size > maxFences) claim.fences.delete(oldest!);
    claim.value = seal(claim.key, { boot, fence });
  }

  /** Claims an id, or sees to its claim; then everybody who came for it meanwhile is told where to go. Never rejects. */
  async #settle(claim: Claim): Promise<void> {
    const { store, redis, servers, clock, boot } = this.#parts;
    claim.busy = true;
    for (;;) {
      claim.askedMs = clock.monotonicMs();
      claim.ttlMs = this.#isPaired(claim.at) ? sessionClaimMs : this.#parts.holdMs() + waitingSlackMs;
      const isFirst = claim.state === 'new' && claim.instead === undefined;
      let standing: string | undefined;
      let owner: ClaimText | undefined;
      try {
        // Others may have taken this server for dead: what it claims counts once it is registered again.
        if (!this.#isRegistered()) await servers.refresh();
        if (this.#isGivenUp(claim)) return this.#release(claim);
        // Whoever took this server for dead may be about to put a claim of its own in place of the one that it has read.
        if (claim.state !== 'new' && claim.epoch !== redis.epoch) {
          claim.instead ??= claim.value;
          this.#fence(claim);
        }
        claim.epoch = redis.epoch;
        const { key, value, ttlMs, instead } = claim;
        standing = await (isFirst ? store.claim(key, value, ttlMs) : store.take(key, value, ttlMs, instead));
        if (this.#isGivenUp(claim)) return this.#release(claim);
        if (standing === undefined || standing === value) {
          if (claim.epoch === redis.epoch && this.#isRegistered()) return this.#stay(claim, 'standing');
          if (claim.state === 'new') claim.state = 'unclaimed';
          continue;
        }
        owner = await this.#ownerOf(key, standing);
      } catch {
        // Redis cannot be asked; its part counts and tells that. Who is here can still meet [K6].
        return this.#stay(claim, 'unclaimed');
      }
      // A server that is no more, or an earlier claim of this one's: its place may be taken, by exactly that value.
      if (owner === undefined || owner.boot === boot) claim.instead = standing;
      else if (this.#isPaired(claim.at)) {
        if (!(await this.#dispute(claim, owner))) return this.#stay(claim, 'unclaimed');
        claim.instead = standing;
      } else return this.#yield(claim, owner, standing);
    }
  }

  /** Another server was told meanwhile that this one does not have the id: a claim that goes on would replace its successor's. */
  #isGivenUp(claim: Claim): boolean {
    return this.#claims.get(claim.key) !== claim;
  }

  /** Where Redis is down it goes with its time, or when another server finds it stale. */
  #release({ key, value }: Claim): void {
    const { store, redis } = this.#parts;
    if (redis.isUp) store.release(key, value).catch(() => {});
  }

  /** Who has claimed an id; `undefined`: nobody who lives. */
  async #ownerOf(key: string, standing: string): Promise<ClaimText | undefined> {
    const { servers, unseal } = this.#parts;
    const owner = readClaim(unseal(key, standing));
    if (owner === undefined || owner.boot === this.#parts.boot || servers.has(owner.boot)) return owner;
    await servers.refresh();
    return servers.has(owner.boot) ? owner : undefined;
  }

  #stay(claim: Claim, state: 'standing' | 'unclaimed'): void {
    const isFirst = claim.state === 'new';
    claim.state = state;
    claim.instead = undefined;
    for (const [index, joiner] of claim.queue.splice(0).entries()) {
      if (joiner.over) continue;
      // Who came while the first one's claim was under way has found its rendezvous here.
      this.counts[!isFirst || index > 0 ? 'local' : state === 'standing' ? 'claimed' : 'unclaimed']++;
      this.#joinHere(joiner);
    }
    claim.busy = false;
    this.#freeIfUnused(claim);
  }

  /**
   * A session runs here, and yet another server has its id: Redis has lost the claim, or this server was taken for dead.
   * Where one runs there as well it is this one that ends: there are never two for longer than it takes to find out.
   * True where the other one has given the id up.
   */
  async #dispute({ at }: Claim, { boot, fence }: ClaimText): Promise<boolean> {
    const { relay, askResign } = this.#parts;
    this.conflicts++;
    const answer = await askResign(boot, { ...at, fence }).catch(() => undefined);
    if (answer === 'paired') {
      relay.endSession(at, 'peer-error', closeCodes.peerError, 'another server has this session');
    }
    return answer === 'resigned';
  }

  /** The id is another server's: every half of it here goes there. */
  #yield(claim: Claim, owner: ClaimText, standing: string): void {
    for (const joiner of this.#giveUp(claim)) void this.#present(joiner, owner, standing);
  }

  /** This server does not have the id any more; who has come for it is sought a rendezvous elsewhere. */
  #giveUp(claim: Claim): Joiner[] {
    const { relay } = this.#parts;
    if (this.#isGivenUp(claim)) return claim.queue.splice(0);
    this.#claims.delete(claim.key);
    const waiting = relay.pairing.waitingAt(claim.at);
    if (waiting === undefined) return claim.queue.splice(0);
    relay.withdraw(waiting);
    waiting.socket.promise();
    this.counts.handed_over++;
    const joiner: Joiner = { half: waiting, settled: () => {}, over: false, tries: 0, unreachableSinceMs: undefined };
    this.#joiners.set(waiting, joiner);
    return [joiner, ...claim.queue.splice(0)];
  }

  /** Never rejects. */
  async #present(joiner: Joiner, { boot, fence }: ClaimText, standing: string): Promise<void> {
    const { half } = joiner;
    const { domain, id } = half.admission;
    const { relay, clock, ask, dial, carry } = this.#parts;
    try {
      const answer = presentAnswer.parse(await ask(boot, { domain, id, fence }));
      if (joiner.over) return;
      joiner.unreachableSinceMs = undefined;
      if ('stale' in answer) return void this.#again(joiner, standing);
      const { challenge, hardClose } = answer;
      const waitedMs = Math.max(0, clock.monotonicMs() - half.arrivedMs);
      const link = await dial(boot, half, { domain, id, fence, challenge, waitedMs });
      if (joiner.over) return link.close(closeCodes.peerError, 'the half has left');
      this.#finish(joiner);
      relay.startLinked(half);
      this.counts.linked++;
      carry(half, link, boot, hardClose);
      joiner.settled();
    } catch {
      // The owner cannot be reached; whoever asked or dialled counts why. It may be dying: then its claim is free soon.
      if (!joiner.over) this.#unreachable(joiner);
    }
  }

  #unreachable(joiner: Joiner): void {
    const { clock, heartbeatMs, relay } = this.#parts;
    const nowMs = clock.monotonicMs();
    joiner.unreachableSinceMs ??= nowMs;
    if (nowMs - joiner.unreachableSinceMs < heartbeatMs * 1.25) return void this.#again(joiner);
    this.counts.failed++;
    relay.turnAway(joiner.half, 'peer-error', closeCodes.peerError, 'the server of the other half cannot be reached');
  }

  /** Seeks again; soon where a stale claim can be replaced at once. */
  async #again(joiner: Joiner, instead?: string): Promise<void> {
    joiner.tries++;
    const pauseMs = instead !== undefined && joiner.tries < 4 ? 0 : Math.min(50 * 2 ** joiner.tries, 500);
    if (pauseMs > 0) await this.#parts.pause(pauseMs * (0.5 + Math.random() / 2));
    if (!joiner.over) this.#seek(joiner, instead);
  }

  #joinHere(joiner: Joiner): void {
    if (joiner.over) return;
    this.#finish(joiner);
    this.#parts.relay.join(joiner.half);
    if (joiner.half.state === 'waiting') joiner.half.socket.promise(false);
    joiner.settled();
  }

  #finish(joiner: Joiner): void {
    joiner.over = true;
    this.#joiners.delete(joiner.half);
  }

  #isPaired(at: At): boolean {
    return !this.#parts.relay.pairing.wouldWait(at) && !this.#isWaiting(at);
  }

  #isWaiting(at: At): boolean {
    return this.#parts.relay.pairing.waitingAt(at) !== undefined;
  }

  #freeIfUnused(claim: Claim): void {
    if (this.#isGivenUp(claim) || claim.busy || claim.expected > 0) return;
    if (!this.#parts.relay.pairing.wouldWait(claim.at)) return;
    this.#claims.delete(claim.key);
    this.#release(claim);
  }
}
