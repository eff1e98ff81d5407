import type { Clock } from '../../core/clock.ts';
import { CoupletError } from '../../core/errors.ts';
import {
  type Accepted,
  type DeviceFacts,
  type Hello,
  type RefusalReason,
  type ServerMessage,
  silenceLimitMs,
  type TunnelReport,
} from '../../protocol/agent-messages.ts';
import {
  agentHost,
  type HandshakeContext,
  joinCodeId,
  joinCodeKey,
  proveJoin,
  signAuthenticate,
  signEnrol,
} from '../../protocol/agent-proofs.ts';
import type { TunnelCommand } from '../../protocol/tunnel-command.ts';
import { Backoff, type BackoffOptions, pause } from '../backoff.ts';
import { deferred } from '../waiting.ts';
import { ControlSocket, type ServerOptions, serverUrl } from './control-socket.ts';
import type { AgentState } from './state.ts';

export interface ControlChannelOptions extends ServerOptions {
  readonly state: AgentState;
  /** Needed once, to enrol. Ignored by a device that is enrolled. */
  readonly join?: string;
  readonly facts: DeviceFacts;
  readonly clock: Clock;
  readonly onOnline: (accepted: Accepted) => void;
  /** The channel is down; the next attempt is after `retryMs`. */
  readonly onOffline: (error: CoupletError, retryMs: number) => void;
  readonly onTunnel: (command: TunnelCommand) => void;
  readonly backoff?: BackoffOptions;
  /** From connecting to `accepted`. Default 20,000. */
  readonly acceptTimeoutMs?: number;
}

/** Ends that no new attempt would change. */
export const finalAgentCodes: ReadonlySet<string> = new Set(
  ['NOT_TAKEN', 'REFUSED', 'REPLACED', 'REVOKED', 'SERVER', 'STATE'].map((word) => `CPL_AGENT_${word}`),
);

const refusalTexts: Readonly<Record<RefusalReason, string>> = {
  'join-code': 'the join code is unknown, used or expired; make a new one with "couplet device add"',
  credentials: 'it does not know this device or its key; enrol anew with a new join code and an empty state folder',
  revoked: 'this device was revoked; enrol anew with a new join code and an empty state folder',
  host: 'the host in the URL is none of its names',
  protocol: 'it did not understand this agent',
  unavailable: 'it takes no agents at the moment',
};

/** [T9][T10] An agent's control channel, held up for as long as it is to run. */
export class ControlChannel {
  readonly #options: ControlChannelOptions;
  readonly #host: string;
  readonly #backoff: Backoff;
  #socket: ControlSocket | undefined;

  /** @throws CoupletError `CPL_CLIENT_URL`; `CPL_AGENT_JOIN` where a device that is not enrolled has no join code. */
  constructor(options: ControlChannelOptions) {
    this.#options = options;
    this.#host = agentHost(serverUrl(options.url));
    this.#backoff = new Backoff(options.backoff);
    if (options.state.enrolment === undefined && options.join === undefined) {
      throw new CoupletError(
        'CPL_AGENT_JOIN',
        'this device is not enrolled yet: give --join CODE of "couplet device add"',
      );
    }
  }

  /**
   * Connects, and again whenever the connection is lost, until the signal ends it.
   * @throws CoupletError (as rejection) `CPL_AGENT_REFUSED`, `CPL_AGENT_REPLACED`, `CPL_AGENT_REVOKED`,
   * `CPL_AGENT_SERVER` (another server answers), `CPL_AGENT_NOT_TAKEN` (no agents there), `CPL_AGENT_STATE`: nothing
   * that trying again would change.
   */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const error = await this.#connection(signal);
      if (error === undefined) return;
      if (finalAgentCodes.has(error.code)) throw error;
      const retryMs = this.#backoff.next();
      this.#options.onOffline(error, retryMs);
      await pause(retryMs, signal);
    }
  }

  /** Tells the server what became of a tunnel command. False where the channel is down: it is lost then. */
  report(report: TunnelReport): boolean {
    return this.#socket?.send(report) === true;
  }

  /** One connection from beginning to end; returns why it ended, `undefined` where the signal ended it. */
  async #connection(signal: AbortSignal): Promise<CoupletError | undefined> {
    const { acceptTimeoutMs = 20_000 } = this.#options;
    const socket = new ControlSocket(this.#options);
    const stopped = deferred<void>();
    const onAbort = () => stopped.resolve();
    signal.addEventListener('abort', onAbort, { once: true });
    const late = setTimeout(() => {
      socket.fail(
        new CoupletError('CPL_AGENT_TIMEOUT', `the server did not accept this agent in ${acceptTimeoutMs} ms`),
      );
    }, acceptTimeoutMs);
    const conversation = new Conversation(socket, this.#options, this.#host, () => {
      clearTimeout(late);
      this.#backoff.reset();
      this.#socket = socket;
    });
    socket.onMessage = (message) => {
      try {
        conversation.hear(message);
      } catch (error) {
        socket.fail(error); // the state folder could not be written
      }
    };
    try {
      await Promise.race([socket.ended, stopped.promise]);
      return undefined;
    } catch (error) {
      if (error instanceof CoupletError) return error;
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
      clearTimeout(late);
      conversation.end();
      this.#socket = undefined;
      await socket.close();
    }
  }
}

/** What is said on one connection. */
class Conversation {
  readonly #socket: ControlSocket;
  readonly #options: ControlChannelOptions;
  readonly #host: string;
  readonly #onAccepted: () => void;
  #hello: Hello | undefined;
  #accepted = false;
  #heardMs: number;
  #heartbeats: NodeJS.Timeout | undefined;

  constructor(socket: ControlSocket, options: ControlChannelOptions, host: string, onAccepted: () => void) {
    this.#socket = socket;
    this.#options = options;
    this.#host = host;
    this.#onAccepted = onAccepted;
    this.#heardMs = options.clock.monotonicMs();
  }

  end(): void {
    clearInterval(this.#heartbeats);
  }

  hear(message: ServerMessage): void {
    this.#heardMs = this.#options.clock.monotonicMs();
    const { type } = message;
    if (type === 'refused') this.#onRefused(message.reason);
    else if (type === 'revoked') this.#fail('CPL_AGENT_REVOKED', 'this device was revoked by the server');
    else if (type === 'replaced') {
      const why = 'another agent with the same key is online; is its state folder a copy of this one?';
      this.#fail('CPL_AGENT_REPLACED', why);
    } else if (type === 'hello') this.#onHello(message);
    else if (type === 'accepted') this.#onAccept(message);
    else if (type === 'tunnel' && this.#accepted) this.#options.onTunnel(message);
    else if (type === 'tunnel') this.#unexpected(type);
  }

  #onHello(hello: Hello): void {
    if (this.#hello !== undefined) {
      this.#unexpected('hello');
      return;
    }
    this.#hello = hello;
    const { state, join, facts } = this.#options;
    const context: HandshakeContext = { host: this.#host, serverId: hello.serverId, challenge: hello.challenge };
    const known = state.enrolment;
    if (known !== undefined) {
      if (known.serverId !== hello.serverId) {
        const what = `this device is enrolled at the server ${JSON.stringify(known.serverId)}, another one answers`;
        this.#fail('CPL_AGENT_SERVER', what);
        return;
      }
      const signature = signAuthenticate(state.privateKey, context, known.nodeid);
      this.#socket.send({ type: 'authenticate', nodeid: known.nodeid, host: this.#host, signature, facts });
    } else if (join !== undefined) {
      this.#socket.send({
        type: 'enrol',
        joinId: joinCodeId(join),
        joinProof: proveJoin(joinCodeKey(join), context, state.publicKey),
        publicKey: state.publicKey,
        host: this.#host,
        signature: signEnrol(state.privateKey, context),
        facts,
      });
    }
  }

  #onAccept(accepted: Accepted): void {
    const { state, onOnline } = this.#options;
    const known = state.enrolment;
    if (this.#hello === undefined || this.#accepted || (known !== undefined && known.nodeid !== accepted.nodeid)) {
      this.#unexpected('accepted');
      return;
    }
    this.#accepted = true;
    const { nodeid, name, heartbeatMs } = accepted;
    if (known === undefined) state.enrolled({ nodeid, name, serverId: this.#hello.serverId });
    this.#heartbeats = setInterval(() => this.#beat(heartbeatMs), heartbeatMs);
    this.#onAccepted();
    onOnline(accepted);
  }

  #beat(heartbeatMs: number): void {
    const silentMs = this.#options.clock.monotonicMs() - this.#heardMs;
    if (silentMs > silenceLimitMs(heartbeatMs)) {
      this.#fail('CPL_AGENT_SILENT', `the server has said nothing for ${Math.round(silentMs)} ms`);
    } else {
      this.#socket.send({ type: 'heartbeat' });
    }
  }

  #onRefused(reason: RefusalReason): void {
    const code = reason === 'unavailable' ? 'CPL_AGENT_UNAVAILABLE' : 'CPL_AGENT_REFUSED';
    this.#fail(code, `the server refused this agent: ${refusalTexts[reason]}`);
  }

  #unexpected(type: string): void {
    this.#fail('CPL_AGENT_PROTOCOL', `the server broke the control channel's protocol: ${type} at the wrong time`);
  }

  #fail(code: `CPL_${string}`, text: string): void {
    this.#accepted = false;
    this.#socket.fail(new CoupletError(code, text));
  }
}
