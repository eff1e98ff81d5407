import { CoupletError } from '../core/errors.ts';
import { type AskFault, Channel, type ChannelWire, peerError } from './channel.ts';
import { IncomingChannel } from './incoming-channel.ts';
import type { LinkTickets } from './link-tickets.ts';
import type { PeerNetworks } from './peer-address.ts';
import { dialChannel } from './peer-dial.ts';
import type { ServerEntry, Servers } from './servers.ts';

/** What the other parts of the cluster ask of other servers. */
export interface Peers {
  /** Asks one server. Rejects with CoupletError 'CPL_PEER' (unreachable, refused, deadline; default 2000 ms). */
  ask(boot: string, method: string, body: unknown, withinMs?: number): Promise<unknown>;
  /** Asks all other live servers at once. */
  askAll(
    method: string,
    body: unknown,
    withinMs?: number,
  ): Promise<{ answers: { boot: string; answer: unknown }[]; silent: string[] }>;
  /** The body is not validated: the handler does. */
  serve(method: string, handler: (body: unknown, boot: string) => unknown): void;
  /** A channel to or from this server was lost; its links end. */
  onLost(listener: (boot: string) => void): () => void;
}

export interface PeerParts {
  readonly servers: Servers;
  readonly tickets: LinkTickets;
  readonly networks: PeerNetworks;
  /** `cluster.heartbeatMs`. */
  readonly heartbeatMs: number;
  /** A handler or a listener threw: a bug. */
  failed(error: unknown): void;
  /** A server in the registry cannot be dialled; told once, until it is reached. The text names no secret. */
  unreachable(linkUrl: string, why: string): void;
  /** How long a channel that nothing holds is kept after the last request. */
  readonly idleMs?: number;
}

/** Four beats in a heartbeat; four ticks without one, which is at most a heartbeat, are silence. */
const beatsPerHeartbeat = 4;
const defaultAskMs = 2000;
const defaultIdleMs = 60_000;
const maxUnproven = 256;

/**
 * [K3] [K7] The channels to and from the other servers: dialled on demand, kept while they are of use, watched. A channel
 * that breaks is dialled once more at once; where that fails, or a channel is silent, the server is lost.
 */
export class PeerChannels implements Peers {
  /** By `METHOD RESULT`; results are `ok` and the words of AskFault. */
  readonly requests = new Map<string, number>();
  lostTotal = 0;
  readonly #parts: PeerParts;
  readonly #out = new Map<string, Channel>();
  readonly #in = new Map<string, Set<Channel>>();
  readonly #dialling = new Map<string, Promise<Channel>>();
  readonly #holds = new Map<string, number>();
  readonly #handlers = new Map<string, (body: unknown, boot: string) => unknown>();
  readonly #listeners = new Set<(boot: string) => void>();
  readonly #sought = new Set<string>();
  readonly #unreachable = new Set<string>();
  readonly #timer: NodeJS.Timeout;
  readonly #idleTicks: number;
  readonly #unproven = new Set<IncomingChannel>();
  #closed = false;

  constructor(parts: PeerParts) {
    this.#parts = parts;
    const tickMs = Math.max(1, Math.floor(parts.heartbeatMs / beatsPerHeartbeat));
    this.#idleTicks = Math.ceil((parts.idleMs ?? defaultIdleMs) / tickMs);
    this.#timer = setInterval(() => this.#tick(), tickMs).unref();
    parts.servers.onGone((boot) => this.#unreachable.delete(boot));
  }

  /** Channels that stand, either way. */
  get channelCount(): number {
    let count = this.#out.size;
    for (const channels of this.#in.values()) count += channels.size;
    return count;
  }

  async ask(boot: string, method: string, body: unknown, withinMs = defaultAskMs): Promise<unknown> {
    let result: AskFault | 'ok' = 'ok';
    try {
      return await this.#ask(boot, method, body, withinMs);
    } catch (error) {
      result = error instanceof CoupletError ? ((error.reason as AskFault | undefined) ?? 'unreachable') : 'error';
      throw error;
    } finally {
      const key = `${method} ${result}`;
      this.requests.set(key, (this.requests.get(key) ?? 0) + 1);
    }
  }

  async askAll(
    method: string,
    body: unknown,
    withinMs = defaultAskMs,
  ): Promise<{ answers: { boot: string; answer: unknown }[]; silent: string[] }> {
    const answers: { boot: string; answer: unknown }[] = [];
    const silent: string[] = [];
    const one = async (boot: string) => {
      try {
        answers.push({ boot, answer: await this.ask(boot, method, body, withinMs) });
      } catch {
        silent.push(boot); // counted by `ask`; who asks all is told who did not answer
      }
    };
    await Promise.all(this.#parts.servers.others().map(({ boot }) => one(boot)));
    return { answers, silent };
  }

  serve(method: string, handler: (body: unknown, boot: string) => unknown): void {
    if (this.#handlers.has(method)) throw new Error(`the peer request ${method} is served already`);
    this.#handlers.set(method, handler);
  }

  onLost(listener: (boot: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Keeps a channel to this server until what is returned is called: its loss shall be noticed. */
  hold(boot: string): () => void {
    this.#holds.set(boot, (this.#holds.get(boot) ?? 0) + 1);
    if (this.#holds.get(boot) === 1) this.#seek(boot);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      const left = (this.#holds.get(boot) ?? 1) - 1;
      if (left > 0) this.#holds.set(boot, left);
      else this.#holds.delete(boot);
    };
  }

  /**
   * A request for a channel has come to the link endpoint. `undefined`: it is to be refused; else the proof for the 101
   * and what takes the socket.
   */
  incoming(hello: string): { readonly proof: string; accept(wire: ChannelWire): IncomingChannel } | undefined {
    const heard = this.#parts.tickets.heard(hello);
    if (heard === undefined || this.#closed || this.#unproven.size >= maxUnproven) return undefined;
    const { from, challenge } = heard;
    const { proof, next } = this.#parts.tickets.answerChannel(from, challenge);
    const accept = (wire: ChannelWire): IncomingChannel => {
      const incoming = new IncomingChannel({
        wire,
        isProof: (text) => this.#parts.tickets.isChannelProof(text, from, next),
        proven: () => this.#proven(from, wire),
        settled: () => this.#unproven.delete(incoming),
        closed: (channel, isOrderly) => this.#inClosed(channel, isOrderly),
      });
      this.#unproven.add(incoming);
      return incoming;
    };
    return { proof, accept };
  }

  /** Says goodbye to all; those that do not answer are cut off by their sockets' deadlines. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    for (const incoming of this.#unproven) incoming.terminate();
    for (const channel of this.#all()) this.#part(channel, 1001, 'server going away');
    this.#out.clear();
    this.#in.clear();
  }

  // -- asking -----------------------------------------------------------------------------------------------------------

  async #ask(boot: string, method: string, body: unknown, withinMs: number): Promise<unknown> {
    const started = this.#out.get(boot);
    if (started !== undefined) return started.ask(method, body, withinMs);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(
        () => reject(peerError('timeout', `a server was not reached within ${withinMs} ms`)),
        withinMs,
      );
    });
    const asked = this.#channel(boot).then((channel) => channel.ask(method, body, withinMs));
    asked.catch(() => undefined); // where the deadline came first
    try {
      return await Promise.race([asked, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The channel to a server; those who want one at the same time share a dial. */
  #channel(boot: string): Promise<Channel> {
    const standing = this.#out.get(boot);
    if (standing !== undefined) return Promise.resolve(standing);
    const under = this.#dialling.get(boot);
    if (under !== undefined) return under;
    const dial = this.#dial(boot).finally(() => this.#dialling.delete(boot));
    this.#dialling.set(boot, dial);
    return dial;
  }

  async #dial(boot: string): Promise<Channel> {
    const { servers } = this.#parts;
    if (this.#closed) throw peerError('unreachable', 'this server is going away');
    if (boot === servers.self.boot) throw peerError('unreachable', 'a server has no peer channel to itself');
    let entry = servers.get(boot);
    if (entry === undefined) {
      await servers.refresh();
      entry = servers.get(boot);
    }
    if (entry === undefined) throw peerError('unreachable', 'no server with this boot id is in the registry');
    const dialled = await this.#dialEntry(entry);
    const channel = this.#make(boot, dialled.wire);
    dialled.listen({
      heard: (text) => {
        if (!channel.heard(text)) dialled.wire.terminate();
      },
      closed: (isOrderly) => this.#outClosed(channel, isOrderly),
    });
    if (this.#closed) {
      this.#part(channel, 1001, 'server going away');
      throw peerError('unreachable', 'this server is going away');
    }
    this.#out.set(boot, channel);
    return channel;
  }

  async #dialEntry(entry: ServerEntry): ReturnType<typeof dialChannel> {
    try {
      const dialled = await dialChannel(entry, this.#parts);
      this.#unreachable.delete(entry.boot);
      return dialled;
    } catch (error) {
      void this.#tellUnreachable(entry, (error as Error).message);
      throw error;
    }
  }

  /** Not of one that has just left. */
  async #tellUnreachable({ boot, linkUrl }: ServerEntry, why: string): Promise<void> {
    if (this.#closed || this.#unreachable.has(boot)) return;
    this.#unreachable.add(boot);
    const { servers } = this.#parts;
    await servers.refresh().catch(() => {}); // with Redis down what was known stands
    if (servers.get(boot) === undefined) this.#unreachable.delete(boot);
    else this.#parts.unreachable(linkUrl, why);
  }

  #make(boot: string, wire: ChannelWire): Channel {
    return new Channel({
      boot,
      wire,
      answer: (method, body, from) => {
        const handler = this.#handlers.get(method);
        if (handler === undefined) throw peerError('error', 'no such request is served here');
        return handler(body, from);
      },
      failed: this.#parts.failed,
    });
  }

  #proven(from: string, wire: ChannelWire): Channel {
    const channel = this.#make(from, wire);
    const channels = this.#in.get(from) ?? new Set();
    this.#in.set(from, channels.add(channel));
    // The dialler knows by it that it was taken.
    channel.beat();
    return channel;
  }

  // -- ends -------------------------------------------------------------------------------------------------------------

  #outClosed(channel: Channel, isOrderly: boolean): void {
    if (channel.isOver) return;
    const { boot } = channel;
    channel.over('the peer channel broke');
    this.#out.delete(boot);
    if (this.#closed || (isOrderly && !this.#holds.has(boot))) return;
    // One that was never confirmed was refused: dialling again would not end.
    if (!channel.isConfirmed) return this.#lose(boot);
    this.#seek(boot);
  }

  #inClosed(channel: Channel, isOrderly: boolean): void {
    if (channel.isOver) return;
    const { boot } = channel;
    channel.over('the peer channel broke');
    const channels = this.#in.get(boot);
    channels?.delete(channel);
    if (channels?.size === 0) this.#in.delete(boot);
    // The dialler dials again; whether it lives is asked only where no other channel would tell.
    if (isOrderly || this.#closed || this.#in.has(boot)) return;
    this.#seek(boot);
  }

  /** A channel to this server is to stand: dials it where none does; where that fails the server is lost. */
  #seek(boot: string): void {
    if (this.#sought.has(boot)) return;
    this.#sought.add(boot);
    this.#channel(boot).then(
      () => this.#sought.delete(boot),
      () => {
        this.#sought.delete(boot);
        this.#lose(boot);
      },
    );
  }

  /** Says goodbye to one channel. */
  #part(channel: Channel, code: number, reason: string): void {
    channel.over('the peer channel is closed');
    channel.wire.close(code, reason);
  }

  /** All channels of a server end, and who has links with it is told. */
  #lose(boot: string): void {
    if (this.#closed) return;
    const channels = [...(this.#in.get(boot) ?? [])];
    const out = this.#out.get(boot);
    if (out !== undefined) channels.push(out);
    this.#out.delete(boot);
    this.#in.delete(boot);
    for (const channel of channels) {
      channel.over('the server is lost');
      channel.wire.terminate();
    }
    this.lostTotal++;
    for (const listener of this.#listeners) {
      try {
        listener(boot);
      } catch (error) {
        this.#parts.failed(error);
      }
    }
  }

  *#all(): Iterable<Channel> {
    yield* this.#out.values();
    for (const channels of this.#in.values()) yield* channels;
  }

  #tick(): void {
    const suspects: Channel[] = [];
    for (const channel of [...this.#all()]) {
      channel.beat();
      channel.tick();
      if (channel.isSilent(beatsPerHeartbeat)) suspects.push(channel);
    }
    // What has come while this event loop stood still is read before anyone is judged.
    if (suspects.length > 0) setImmediate(() => this.#judge(suspects));
    for (const channel of this.#out.values()) {
      const isUsed = this.#holds.has(channel.boot) || channel.asksInFlight > 0;
      if (isUsed || channel.unusedTicks <= this.#idleTicks) continue;
      this.#out.delete(channel.boot);
      this.#part(channel, 1000, 'not used');
    }
  }

  #judge(suspects: readonly Channel[]): void {
    for (const channel of suspects) {
      if (!channel.isOver && channel.isSilent(beatsPerHeartbeat)) this.#lose(channel.boot);
    }
  }
}
