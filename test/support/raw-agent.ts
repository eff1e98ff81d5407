import type { KeyObject } from 'node:crypto';
import type { TestContext } from 'node:test';
import {
  type AgentMessage,
  agentPath,
  type Hello,
  readServerMessage,
  type ServerMessage,
  writeMessage,
} from '../../src/protocol/agent-messages.ts';
import {
  type HandshakeContext,
  joinCodeId,
  joinCodeKey,
  mintDeviceKey,
  proveJoin,
  signAuthenticate,
  signEnrol,
} from '../../src/protocol/agent-proofs.ts';
import { parseTunnelValue, type TunnelCommand, type TunnelValue } from '../../src/protocol/tunnel-command.ts';
import { type Client, connect } from './client.ts';

/** One end of a control channel that does what the test says, and nothing by itself. */
export class RawAgent {
  readonly client: Client;
  readonly context: HandshakeContext;
  readonly keys: { privateKey: KeyObject; publicKey: string };
  /** What it said, as it crossed the wire. */
  readonly said: string[] = [];
  /** What it says of itself. */
  facts = { hostname: 'box.example', platform: 'linux', version: '1.0.0', capabilities: ['tcp'] };

  constructor(client: Client, context: HandshakeContext, keys = mintDeviceKey()) {
    this.client = client;
    this.context = context;
    this.keys = keys;
  }

  /** Opens a connection and takes the hello. */
  static async open(t: TestContext, url: string, keys?: RawAgent['keys']): Promise<RawAgent> {
    const client = await connect(t, `${url}${agentPath}`);
    const { serverId, challenge } = (await message(client)) as Hello;
    return new RawAgent(client, { host: new URL(url).host, serverId, challenge }, keys);
  }

  say(what: AgentMessage): void {
    this.sayText(writeMessage(what));
  }

  sayText(text: string): void {
    this.said.push(text);
    this.client.send(text);
  }

  enrol(code: string, context = this.context): void {
    const { privateKey, publicKey } = this.keys;
    const joinProof = proveJoin(joinCodeKey(code), context, publicKey);
    const signature = signEnrol(privateKey, context);
    const { facts } = this;
    this.say({ type: 'enrol', joinId: joinCodeId(code), joinProof, publicKey, host: context.host, signature, facts });
  }

  authenticate(nodeid: string, context = this.context): void {
    const signature = signAuthenticate(this.keys.privateKey, context, nodeid);
    this.say({ type: 'authenticate', nodeid, host: context.host, signature, facts: this.facts });
  }

  /** The next message that is no heartbeat; a heartbeat is answered. */
  async next(): Promise<ServerMessage> {
    for (;;) {
      const got = await message(this.client);
      if ('action' in got || got.type !== 'heartbeat') return got;
      this.client.send(writeMessage({ type: 'heartbeat' }));
    }
  }

  /** The next message, which is a tunnel command. */
  async command(): Promise<{ command: TunnelCommand; value: TunnelValue }> {
    const command = await this.next();
    if (!('action' in command)) throw new Error(`no tunnel command: ${JSON.stringify(command)}`);
    const value = parseTunnelValue(command.value);
    if (value === undefined) throw new Error(`no value of a tunnel command: ${command.value}`);
    return { command, value };
  }
}

async function message(client: Client): Promise<ServerMessage> {
  const text = await client.nextText();
  const read = readServerMessage(text);
  if (!read.ok) throw new Error(`the server said what it must not: ${text}: ${read.detail}`);
  return read.message;
}

/** An agent that is enrolled and accepted. */
export async function enrolRaw(t: TestContext, url: string, code: string): Promise<RawAgent> {
  const agent = await RawAgent.open(t, url);
  agent.enrol(code);
  const answer = await agent.next();
  if (answer.type !== 'accepted') throw new Error(`not accepted: ${JSON.stringify(answer)}`);
  return agent;
}
