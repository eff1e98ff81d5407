import { z } from 'zod';
import type { AgentState } from '../api/parts.ts';
import type { Links } from '../cluster/link.ts';
import { Presence, type PresenceEntry, type PresenceParts, replacedSchema } from '../cluster/presence.ts';
import type { Clock } from '../core/clock.ts';
import { type TunnelReport, tunnelReportSchema } from '../protocol/agent-messages.ts';
import { type TunnelCommand, tunnelCommandSchema } from '../protocol/tunnel-command.ts';
import type { Half } from '../relay/session.ts';
import type { Agents, OnlineAgent } from '../routing/agents.ts';
import type { SessionPlace, Tunnels } from '../routing/tunnel.ts';
import type { PeerCalls } from './peer-calls.ts';

/** What devices need of a cluster. */
export interface DeviceCluster extends Pick<PresenceParts, 'boot' | 'store' | 'redis' | 'servers' | 'seal' | 'unseal'> {
  readonly peers: PeerCalls;
  readonly links: Pick<Links, 'carried' | 'revoke'>;
  /** Lets a half wait for its mate, or meet it, on whichever server; see `TunnelParts.join`. */
  join(half: Half, settled?: () => void): void;
}

export interface ClusterDevicesParts {
  readonly cluster: DeviceCluster;
  readonly agents: Pick<Agents, 'get' | 'send' | 'replacedElsewhere'>;
  readonly tunnels: Pick<Tunnels, 'orderedFrom' | 'bootOf' | 'reported'>;
  readonly clock: Pick<Clock, 'monotonicMs'>;
  /** Looks for changes of the directory and resolves when what they end has ended here. */
  applyChanges(): Promise<void>;
  failed(error: unknown): void;
}

const tunnelBody = z.object({
  nodeid: z.string().max(512),
  command: tunnelCommandSchema,
  domain: z.string().max(64),
  id: z.string().max(512),
});
const sentAnswer = z.object({ sent: z.boolean() });
const reportBody = z.object({ nodeid: z.string().max(512), report: tunnelReportSchema });
const appliedAnswer = z.object({ applied: z.literal(true) });

/** [T4] How long a change of the directory may take to be applied everywhere, milliseconds. */
const applyWithinMs = 1_000;

/** [K4] Devices whose control channels are on other servers, and what other servers ask about those that are here. */
export class ClusterDevices {
  readonly presence: Presence;
  readonly #parts: ClusterDevicesParts;
  /** Tunnel commands of which it could not be found out where to send them, or whether they were sent. */
  tunnelsUnsent = 0;
  /** Reports of agents that the server of the user half did not take. */
  reportsLost = 0;
  /** Servers that did not say in time that they had applied a change; they find it by themselves. */
  changesUnanswered = 0;

  constructor(parts: ClusterDevicesParts) {
    const { cluster, agents, tunnels, clock, failed } = parts;
    const { peers, boot, store, redis, servers, seal, unseal } = cluster;
    this.#parts = parts;
    this.presence = new Presence({
      ...{ boot, store, redis, servers, clock, failed },
      seal: seal.bind(cluster),
      unseal: unseal.bind(cluster),
      replaced: (nodeid, address) => agents.replacedElsewhere(nodeid, address),
      tellReplaced: (other, connection) => peers.ask(other, 'agent-replaced', connection),
    });
    peers.serve('agent-replaced', (body) => {
      this.presence.wasReplaced(replacedSchema.parse(body));
      return {};
    });
    peers.serve('tunnel', (body, from) => {
      const { nodeid, command, domain, id } = tunnelBody.parse(body);
      if (agents.get(nodeid) === undefined) return { sent: false };
      const isFirst = tunnels.orderedFrom(from, { domain, id }, nodeid, command);
      return { sent: !isFirst || agents.send(nodeid, command) };
    });
    peers.serve('tunnel-report', (body) => {
      const { nodeid, report } = reportBody.parse(body);
      tunnels.reported(nodeid, report);
      return {};
    });
    peers.serve('directory-changed', async () => {
      await parts.applyChanges();
      return { applied: true };
    });
  }

  /** Servers that could not be told that a connection of theirs was replaced; they find out when they renew. */
  get agentsUntold(): number {
    return this.presence.untold;
  }

  /** An agent's control channel stands here now. */
  online({ nodeid, address, sinceMs, facts }: OnlineAgent): void {
    const { hostname, platform, version, capabilities } = facts;
    this.presence.online({ nodeid, address, sinceMs, hostname, platform, version, capabilities });
  }

  /**
   * [T7] Sends a command to a device's agent; see `TunnelParts.send`. Where the server that holds its channel does not
   * answer, it is looked for once more.
   */
  send(nodeid: string, command: TunnelCommand, at: SessionPlace): boolean | Promise<boolean> {
    return this.#parts.agents.send(nodeid, command) || this.#sendElsewhere(nodeid, command, at);
  }

  async #sendElsewhere(nodeid: string, command: TunnelCommand, { domain, id }: SessionPlace): Promise<boolean> {
    const { cluster, agents } = this.#parts;
    let unanswered = false;
    let without: PresenceEntry | undefined;
    for (let attempt = 0; attempt < 2; attempt++) {
      const place = await this.#place(nodeid);
      // It may have come here meanwhile.
      if (agents.send(nodeid, command)) return true;
      if (place === 'unknown') unanswered = true;
      // Asked already, and it has no such agent: where it has not come again since, it is nowhere.
      if (typeof place === 'string' || (place.boot === without?.boot && place.connection === without.connection)) break;
      try {
        const answer = await cluster.peers.ask(place.boot, 'tunnel', { nodeid, command, domain, id });
        if (sentAnswer.parse(answer).sent) return true;
        without = place;
      } catch {
        unanswered = true;
        // A server that has died is not asked a second time; where Redis does not answer either, it is.
        await cluster.servers.refresh().catch(() => {});
      }
    }
    if (unanswered) this.tunnelsUnsent++;
    return false;
  }

  async #place(nodeid: string): Promise<PresenceEntry | 'offline' | 'unknown'> {
    const found = await this.#find([nodeid]);
    return found === 'unknown' ? found : (found.get(nodeid) ?? 'offline');
  }

  async #find(nodeids: readonly string[]): Promise<Map<string, PresenceEntry> | 'unknown'> {
    try {
      return await this.presence.find(nodeids);
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'CPL_REDIS') this.#parts.failed(error);
      return 'unknown';
    }
  }

  /** Where devices are connected that are not connected here. */
  async states(nodeids: readonly string[]): Promise<AgentState[]> {
    const found = await this.#find(nodeids);
    if (found === 'unknown') return nodeids.map(() => 'unknown');
    return nodeids.map((nodeid) => {
      const entry = found.get(nodeid);
      if (entry === undefined) return 'offline';
      const { boot: _, connection: __, ...presence } = entry;
      return presence;
    });
  }

  /** [T8] An agent here tells that a command came to nothing: the server of the user half is told. */
  reported(nodeid: string, report: TunnelReport): void {
    const boot = this.#parts.tunnels.bootOf(nodeid, report);
    if (boot === undefined) return;
    this.#parts.cluster.peers.ask(boot, 'tunnel-report', { nodeid, report }).catch(() => {
      // The half's own hold ends it then.
      this.reportsLost++;
    });
  }

  /** [T4] Has the other servers look for changes now; resolves when they have applied them, or their time is over. */
  async spreadChanges(): Promise<void> {
    try {
      const { answers, silent } = await this.#parts.cluster.peers.askAll('directory-changed', {}, applyWithinMs);
      const applied = answers.filter(({ answer }) => appliedAnswer.safeParse(answer).success);
      this.changesUnanswered += silent.length + answers.length - applied.length;
    } catch (error) {
      this.#parts.failed(error);
    }
  }
}
