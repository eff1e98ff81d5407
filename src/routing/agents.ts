import type { Clock } from '../core/clock.ts';
import { type DeviceFacts, type RefusalReason, silenceLimitMs, type TunnelReport } from '../protocol/agent-messages.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import type { TunnelCommand } from '../protocol/tunnel-command.ts';
import { type AcceptedAgent, AgentChannel, type AgentDirectory, type AgentSocket } from './agent-channel.ts';

/** Why an agent is offline. */
export type OfflineReason = 'closed' | 'silent' | 'replaced' | 'revoked' | 'shutdown';

/** What agents do, for events and metrics. None of these may throw. */
export interface AgentObserver {
  online(agent: OnlineAgent): void;
  offline(agent: OnlineAgent, reason: OfflineReason): void;
  enrolled(agent: OnlineAgent): void;
  /** A newer connection of the same device took over. */
  replaced(agent: OnlineAgent, by: string): void;
  refused(address: string, nodeid: string, reason: RefusalReason): void;
  report(agent: OnlineAgent, report: TunnelReport): void;
  failed(error: unknown): void;
}

/** A device whose control channel stands. */
export interface OnlineAgent {
  readonly nodeid: string;
  readonly name: string;
  readonly address: string;
  /** Epoch milliseconds. */
  readonly sinceMs: number;
  readonly facts: DeviceFacts;
  /** Ed25519, raw, base64url. */
  readonly publicKey: string;
}

export interface AgentsParts {
  /** Names the server, or cluster, for good. */
  readonly serverId: string;
  readonly heartbeatMs: number;
  readonly clock: Clock;
  readonly directory: AgentDirectory & {
    seen(nodeid: string): Promise<void>;
  };
  readonly observer: AgentObserver;
  isOwnHost(host: string): boolean;
}

interface Online extends OnlineAgent {
  readonly channel: AgentChannel;
}

/** From a connection to its proof, milliseconds; longer than an agent's own patience with a slow network. */
const handshakeMs = 15_000;

/**
 * [T9][T10] The agents that are connected to this server, one control channel for each device: the newest. One timer
 * serves the heartbeats of all.
 */
export class Agents {
  readonly #parts: AgentsParts;
  readonly #online = new Map<string, Online>();
  /** Every connection, with its agent once that has proven itself. */
  readonly #channels = new Map<AgentChannel, Online | undefined>();
  readonly #timer: NodeJS.Timeout;

  constructor(parts: AgentsParts) {
    this.#parts = parts;
    this.#timer = setInterval(() => this.#tick(), Math.max(parts.heartbeatMs / 4, 10)).unref();
  }

  /** How many are online. */
  get count(): number {
    return this.#online.size;
  }

  /** Connections that have not proven anything yet. */
  get pending(): number {
    return this.#channels.size - this.#online.size;
  }

  get(nodeid: string): OnlineAgent | undefined {
    return this.#online.get(nodeid);
  }

  /** [T9] A newer connection of the device, from `address`, stands on another server: the one here is closed. */
  replacedElsewhere(nodeid: string, address: string): void {
    const agent = this.#online.get(nodeid);
    if (agent !== undefined) this.#replace(agent, address);
  }

  /** A new connection; its messages go to the channel, its end to {@link closed}. */
  connected(socket: AgentSocket, address: string): AgentChannel {
    const { serverId, clock, directory, observer, isOwnHost } = this.#parts;
    const channel = new AgentChannel({
      socket,
      address,
      serverId,
      clock,
      directory,
      isOwnHost,
      accepted: (proven, agent) => this.#accept(proven, agent),
      refused: observer.refused,
      report: (from, report) => {
        const agent = this.#channels.get(from);
        if (agent !== undefined) observer.report(agent, report);
      },
      failed: observer.failed,
    });
    this.#channels.set(channel, undefined);
    return channel;
  }

  /** The connection is gone. */
  closed(channel: AgentChannel): void {
    channel.lost();
    this.#leave(channel, 'closed');
    this.#channels.delete(channel);
  }

  /** [T6] Sends a tunnel command; false where the device is connected nowhere here [T7]. */
  send(nodeid: string, command: TunnelCommand): boolean {
    const agent = this.#online.get(nodeid);
    agent?.channel.say(command);
    return agent !== undefined;
  }

  /**
   * [T4][T9] Devices changed in the directory: those removed, revoked or enrolled anew lose their control channel.
   * @param nodeids `undefined`: any of them may have
   */
  async recheck(nodeids: readonly string[] | undefined): Promise<void> {
    for (const nodeid of nodeids ?? [...this.#online.keys()]) {
      const agent = this.#online.get(nodeid);
      if (agent === undefined) continue;
      const device = await this.#parts.directory.get(nodeid);
      if (device?.publicKey === agent.publicKey && device.revokedMs === undefined) continue;
      agent.channel.say({ type: 'revoked' });
      this.#leave(agent.channel, 'revoked');
      agent.channel.close(closeCodes.revoked, 'revoked');
    }
  }

  /** Closes every channel; agents come again, to this server or another. */
  stop(): void {
    clearInterval(this.#timer);
    for (const channel of this.#channels.keys()) {
      this.#leave(channel, 'shutdown');
      channel.close(closeCodes.goingAway, 'server going away');
    }
  }

  #accept(channel: AgentChannel, { device, facts, enrolled }: AcceptedAgent): void {
    const { clock, heartbeatMs, observer } = this.#parts;
    const { id: nodeid, name, publicKey } = device;
    const before = this.#online.get(nodeid);
    const agent: Online = {
      nodeid,
      name,
      address: channel.address,
      sinceMs: clock.nowMs(),
      facts,
      channel,
      publicKey,
    };
    if (before !== undefined) this.#replace(before, channel.address);
    this.#online.set(nodeid, agent);
    this.#channels.set(channel, agent);
    channel.say({ type: 'accepted', nodeid, name, heartbeatMs });
    if (enrolled) observer.enrolled(agent);
    observer.online(agent);
    this.#seen(nodeid);
    // It may have been revoked between its proof and this.
    this.recheck([nodeid]).catch(observer.failed);
  }

  #replace(before: Online, by: string): void {
    before.channel.say({ type: 'replaced' });
    this.#leave(before.channel, 'replaced');
    before.channel.close(closeCodes.duplicate, 'a newer connection of this device');
    this.#parts.observer.replaced(before, by);
  }

  #leave(channel: AgentChannel, reason: OfflineReason): void {
    const agent = this.#channels.get(channel);
    if (agent === undefined) return;
    this.#channels.set(channel, undefined);
    this.#online.delete(agent.nodeid);
    this.#parts.observer.offline(agent, reason);
    if (reason !== 'revoked') this.#seen(agent.nodeid);
  }

  #seen(nodeid: string): void {
    this.#parts.directory.seen(nodeid).catch((error: unknown) => this.#parts.observer.failed(error));
  }

  /** [T10] Says a heartbeat where nothing else was said, and lets go of those that say nothing. */
  #tick(): void {
    const nowMs = this.#parts.clock.monotonicMs();
    const { heartbeatMs } = this.#parts;
    const limitMs = silenceLimitMs(heartbeatMs);
    for (const channel of this.#channels.keys()) {
      if (channel.state === 'online') {
        if (nowMs - channel.heardMs > limitMs) {
          this.#leave(channel, 'silent');
          channel.terminate();
        } else if (nowMs - channel.saidMs >= heartbeatMs * 0.75) channel.say({ type: 'heartbeat' });
      } else if (nowMs - channel.openedMs > handshakeMs) channel.terminate();
    }
  }
}
