import { setMaxListeners } from 'node:events';
import { hostname } from 'node:os';
import { systemClock } from '../../core/clock.ts';
import { CoupletError } from '../../core/errors.ts';
import { packageVersion } from '../../core/version.ts';
import type { Accepted, TunnelReport } from '../../protocol/agent-messages.ts';
import type { TunnelCommand } from '../../protocol/tunnel-command.ts';
import { connectHalf } from '../connect.ts';
import { ControlChannel, type ControlChannelOptions } from './control-channel.ts';
import { serverUrl } from './control-socket.ts';
import { hasTerminals, type TerminalOptions } from './pseudo-terminal.ts';
import { refuseTunnel } from './refused-tunnel.ts';
import { TargetList } from './targets.ts';
import { serveTcp } from './tcp-tunnel.ts';
import { serveTerminal } from './terminal-tunnel.ts';
import { planTunnel, type TunnelPlan } from './tunnel-plan.ts';
import { serveUdp } from './udp-tunnel.ts';

/** What an agent tells whoever runs it. */
export interface AgentEvents {
  online(accepted: Accepted): void;
  offline(error: CoupletError, retryMs: number): void;
  tunnelOpened?(plan: TunnelPlan): void;
  /** `error`: why it did not end well; a mate that broke off counts as such. */
  tunnelClosed?(plan: TunnelPlan, error: CoupletError | undefined): void;
  /** A command that named no relay address here. */
  badCommand?(command: TunnelCommand): void;
}

export interface AgentOptions
  extends Pick<ControlChannelOptions, 'url' | 'ca' | 'insecure' | 'state' | 'join' | 'backoff' | 'clock'> {
  /** Default: loopback. */
  readonly targets?: TargetList;
  readonly terminal?: TerminalOptions;
  /** Tunnels at once. Default 1000. */
  readonly maxTunnels?: number;
  /** Default 10,000. */
  readonly dialTimeoutMs?: number;
  /** Default 300,000. */
  readonly udpIdleMs?: number;
  readonly events: AgentEvents;
}

type Refusal = Extract<TunnelReport, { type: 'tunnel-refused' }>['reason'];
type Ask = Exclude<TunnelPlan, { kind: 'refuse' }>;

/** Failures that the server is told of; those of the session itself it knows better. */
const reportReasons: ReadonlyMap<string, 'dial' | 'terminal'> = new Map([
  ['CPL_AGENT_DIAL', 'dial'],
  ['CPL_AGENT_RESOLVE', 'dial'],
  ['CPL_AGENT_TERMINAL', 'terminal'],
]);

/** [T8]–[T11] The agent: holds the control channel and answers tunnel commands. */
export class Agent {
  readonly #options: AgentOptions;
  readonly #targets: TargetList;
  readonly #tunnels = new Set<Promise<void>>();
  readonly #stopTunnels = new AbortController();
  #channel: ControlChannel | undefined;

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#targets = options.targets ?? new TargetList();
    setMaxListeners(0, this.#stopTunnels.signal); // one for each tunnel
  }

  /** Tunnels that run. */
  get tunnels(): number {
    return this.#tunnels.size;
  }

  /**
   * Runs until the signal ends it: then every tunnel is ended, and all is given back when this settles.
   * @throws CoupletError (as rejection): as {@link ControlChannel.run}
   */
  async run(signal: AbortSignal): Promise<void> {
    const { url, ca, insecure, state, join, backoff, clock = systemClock, events } = this.#options;
    const capabilities = ['tcp', 'udp', ...((await hasTerminals()) ? ['terminal'] : [])];
    this.#channel = new ControlChannel({
      url,
      ...(ca !== undefined && { ca }),
      ...(insecure !== undefined && { insecure }),
      ...(join !== undefined && { join }),
      ...(backoff !== undefined && { backoff }),
      state,
      clock,
      facts: { hostname: hostname(), platform: process.platform, version: packageVersion(), capabilities },
      onOnline: (accepted) => events.online(accepted),
      onOffline: (error, retryMs) => events.offline(error, retryMs),
      onTunnel: (command) => this.#onTunnel(command),
    });
    try {
      await this.#channel.run(signal);
    } finally {
      this.#stopTunnels.abort(new CoupletError('CPL_CLIENT_STOPPED', 'the agent was ended'));
      await Promise.all(this.#tunnels);
    }
  }

  #onTunnel(command: TunnelCommand): void {
    const plan = planTunnel(command);
    if (plan === undefined) {
      this.#options.events.badCommand?.(command);
      return;
    }
    if (this.#tunnels.size >= (this.#options.maxTunnels ?? 1000)) {
      this.#refused(plan.value.id, 'busy', `this agent serves ${this.#tunnels.size} tunnels already`);
      return;
    }
    const tunnel = this.#serve(plan).finally(() => this.#tunnels.delete(tunnel));
    this.#tunnels.add(tunnel);
  }

  #report(report: TunnelReport): boolean {
    return this.#channel?.report(report) === true;
  }

  #refused(id: string, reason: Refusal, detail: string): boolean {
    return this.#report({ type: 'tunnel-refused', id, reason, detail: detail.slice(0, 500) });
  }

  /** Never rejects with what a peer can cause; anything else is a bug and ends the process. */
  async #serve(plan: TunnelPlan): Promise<void> {
    const { events } = this.#options;
    events.tunnelOpened?.(plan);
    let failure: CoupletError | undefined;
    try {
      if (plan.kind === 'refuse') {
        failure = new CoupletError('CPL_AGENT_NOT_ALLOWED', plan.detail);
        await this.#refuse(plan, plan.reason, failure);
      } else {
        await this.#open(plan);
      }
    } catch (error) {
      if (!(error instanceof CoupletError)) throw error;
      failure = error;
    }
    events.tunnelClosed?.(plan, failure);
  }

  async #open(plan: Ask): Promise<void> {
    const { dialTimeoutMs = 10_000, udpIdleMs = 300_000, terminal = {} } = this.#options;
    const { signal } = this.#stopTunnels;
    try {
      if (plan.kind === 'terminal') {
        const half = await this.#connect(plan);
        await serveTerminal(half, { protocol: plan.value.protocol, terminal, signal });
        return;
      }
      const addresses = await this.#targets.check(plan.host, plan.port);
      const half = await this.#connect(plan);
      if (plan.kind === 'tcp') await serveTcp(half, { addresses, port: plan.port, dialTimeoutMs, signal });
      else await serveUdp(half, { target: addresses[0]!, port: plan.port, idleMs: udpIdleMs, signal });
    } catch (error) {
      if (!(error instanceof CoupletError)) throw error;
      await this.#explain(plan, error);
      throw error;
    }
  }

  async #explain(plan: Ask, error: CoupletError): Promise<void> {
    if (error.code === 'CPL_AGENT_TARGET') return this.#refuse(plan, 'target', error);
    // A failed dial has been told to the user half; then, not before, the server hears of it: it would close that half.
    if (error.code === 'CPL_AGENT_RESOLVE') await this.#turnAway(plan, error);
    const reason = reportReasons.get(error.code);
    const { id } = plan.value;
    if (reason !== undefined) this.#report({ type: 'tunnel-failed', id, reason, detail: error.message.slice(0, 500) });
  }

  /** [T8] The server closes the user half. Where it cannot be told the agent comes to do so: a mate that nobody needs. */
  async #refuse(plan: TunnelPlan, reason: Refusal, error: CoupletError): Promise<void> {
    if (!this.#refused(plan.value.id, reason, error.message)) await this.#turnAway(plan, error);
  }

  /** The user half waits: it is told why nothing comes (T11). */
  async #turnAway(plan: TunnelPlan, error: CoupletError): Promise<void> {
    await refuseTunnel(await this.#connect(plan), `error: ${error.message}`, this.#stopTunnels.signal);
  }

  async #connect(plan: TunnelPlan) {
    const { url, ca, insecure = false } = this.#options;
    const { path, protocol, nodeid, id, rauth } = plan.value;
    const base = serverUrl(url);
    const query = `p=${protocol}${nodeid && `&nodeid=${encodeURIComponent(nodeid)}`}`;
    try {
      return await connectHalf({
        url: `${base.protocol}//${base.host}${base.pathname.replace(/\/$/, '')}${path}?${query}`,
        id,
        credential: { parameter: 'rauth', cookie: rauth },
        insecure,
        ...(ca !== undefined && { ca }),
        signal: this.#stopTunnels.signal,
      });
    } catch (error) {
      if (error instanceof CoupletError && error.code !== 'CPL_CLIENT_STOPPED') {
        this.#report({ type: 'tunnel-failed', id, reason: 'relay', detail: error.message.slice(0, 500) });
      }
      throw error;
    }
  }
}
