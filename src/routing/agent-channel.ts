import type { Clock } from '../core/clock.ts';
import {
  type AgentMessage,
  agentProtocolVersion,
  type DeviceFacts,
  type RefusalReason,
  readAgentMessage,
  type ServerMessage,
  type TunnelReport,
  writeMessage,
} from '../protocol/agent-messages.ts';
import {
  type HandshakeContext,
  mintChallenge,
  verifyAuthenticate,
  verifyEnrol,
  verifyJoin,
} from '../protocol/agent-proofs.ts';
import { closeCodes } from '../protocol/close-codes.ts';

/** An agent's WebSocket, as the control channel needs it. `server/` implements it. */
export interface AgentSocket {
  sendText(text: string): void;
  /** Sends a close frame and ends the connection soon after. */
  close(code: number, reason: string): void;
  /** Ends the connection at once. */
  terminate(): void;
}

/** What the directory keeps of a device, as far as its agent is concerned. */
export interface EnrolledDevice {
  readonly id: string;
  readonly name: string;
  /** Ed25519, raw, base64url; `undefined`: not enrolled, or revoked. */
  readonly publicKey: string | undefined;
  readonly revokedMs: number | undefined;
}

/** What the handshake asks the directory. */
export interface AgentDirectory {
  get(nodeid: string): Promise<EnrolledDevice | undefined>;
  joinKey(joinId: string): Promise<string | undefined>;
  enrol(joinId: string, publicKey: string): Promise<EnrolledDevice | undefined>;
}

/** An agent that has proven who it is. */
export interface AcceptedAgent {
  readonly device: EnrolledDevice & { readonly publicKey: string };
  readonly facts: DeviceFacts;
  readonly enrolled: boolean;
}

export interface AgentChannelParts {
  readonly socket: AgentSocket;
  readonly address: string;
  readonly serverId: string;
  readonly clock: Clock;
  readonly directory: AgentDirectory;
  /** Whether `HOST:PORT` is one of this server's own names. */
  isOwnHost(host: string): boolean;
  /** The handshake is over; the channel's owner says `accepted`. */
  accepted(channel: AgentChannel, agent: AcceptedAgent): void;
  refused(address: string, nodeid: string, reason: RefusalReason): void;
  report(channel: AgentChannel, report: TunnelReport): void;
  /** The directory did not answer, or a bug; the agent is told to come again. */
  failed(error: unknown): void;
}

type First = Extract<AgentMessage, { type: 'enrol' | 'authenticate' }>;

/**
 * The server's end of one control channel [T9][T10]: `greeting → judging → online → closed`. Knows no WebSocket
 * library and no other channel.
 */
export class AgentChannel {
  state: 'greeting' | 'judging' | 'online' | 'closed' = 'greeting';
  readonly address: string;
  /** Monotonic milliseconds of the last word of the agent's, and of ours. */
  heardMs: number;
  saidMs: number;
  readonly openedMs: number;
  readonly #parts: AgentChannelParts;
  readonly #challenge = mintChallenge();

  constructor(parts: AgentChannelParts) {
    this.#parts = parts;
    this.address = parts.address;
    this.openedMs = this.heardMs = this.saidMs = parts.clock.monotonicMs();
    const { serverId } = parts;
    const timeMs = parts.clock.nowMs();
    this.say({ type: 'hello', version: agentProtocolVersion, serverId, challenge: this.#challenge, timeMs });
  }

  say(message: ServerMessage): void {
    if (this.state === 'closed') return;
    this.saidMs = this.#parts.clock.monotonicMs();
    this.#parts.socket.sendText(writeMessage(message));
  }

  /** A text message of the agent's. */
  heard(text: string): void {
    if (this.state === 'closed') return;
    this.heardMs = this.#parts.clock.monotonicMs();
    const read = readAgentMessage(text);
    if (!read.ok) {
      if (read.fault !== 'unknown-type') this.close(closeCodes.protocolError, read.detail);
      return;
    }
    const { message } = read;
    if (message.type === 'heartbeat') {
      // Ours go by the clock; an answer to each would double them.
      return;
    }
    if (message.type === 'enrol' || message.type === 'authenticate') {
      if (this.state !== 'greeting') return this.close(closeCodes.protocolError, 'a second handshake');
      this.state = 'judging';
      void this.#judge(message);
      return;
    }
    if (this.state !== 'online') return this.close(closeCodes.protocolError, 'a report before the handshake');
    this.#parts.report(this, message);
  }

  /** The socket has closed, or is to close. Says nothing to the agent. */
  lost(): void {
    this.state = 'closed';
  }

  close(code: number, reason: string): void {
    if (this.state === 'closed') return;
    this.state = 'closed';
    this.#parts.socket.close(code, reason);
  }

  terminate(): void {
    this.state = 'closed';
    this.#parts.socket.terminate();
  }

  refuse(nodeid: string, reason: RefusalReason): void {
    if (this.state === 'closed') return;
    this.#parts.refused(this.address, nodeid, reason);
    this.say({ type: 'refused', reason });
    this.close(closeCodes.denied, `refused: ${reason}`);
  }

  async #judge(first: First): Promise<void> {
    const nodeid = first.type === 'authenticate' ? first.nodeid : '';
    try {
      const verdict = await this.#verify(first);
      if (this.#isClosed()) return;
      if (typeof verdict === 'string') return this.refuse(nodeid, verdict);
      this.state = 'online';
      this.#parts.accepted(this, verdict);
    } catch (error) {
      this.#parts.failed(error);
      this.refuse(nodeid, 'unavailable');
    }
  }

  /** The socket may have closed while the directory was asked. */
  #isClosed(): boolean {
    return this.state === 'closed';
  }

  async #verify(first: First): Promise<RefusalReason | AcceptedAgent> {
    const { directory, serverId, isOwnHost } = this.#parts;
    const { host, facts } = first;
    if (!isOwnHost(host)) return 'host';
    const context: HandshakeContext = { host, serverId, challenge: this.#challenge };
    if (first.type === 'authenticate') {
      const device = await directory.get(first.nodeid);
      if (device?.revokedMs !== undefined) return 'revoked';
      if (!isEnrolled(device)) return 'credentials';
      const proven = verifyAuthenticate(device.publicKey, context, first.nodeid, first.signature);
      return proven ? { device, facts, enrolled: false } : 'credentials';
    }
    const { joinId, joinProof, publicKey, signature } = first;
    const key = await directory.joinKey(joinId);
    if (key === undefined || !verifyJoin(key, context, publicKey, joinProof)) return 'join-code';
    if (!verifyEnrol(publicKey, context, signature)) return 'credentials';
    // Between the proof and this another may have used the code: it is the statement that counts.
    const device = await directory.enrol(joinId, publicKey);
    return isEnrolled(device) ? { device, facts, enrolled: true } : 'join-code';
  }
}

function isEnrolled(device: EnrolledDevice | undefined): device is AcceptedAgent['device'] {
  return device?.publicKey !== undefined;
}
