import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TestContext } from 'node:test';
import { type WebSocket, WebSocketServer } from 'ws';
import { Agent, type AgentEvents, type AgentOptions } from '../../src/clients/agent/agent.ts';
import { refuseTunnel } from '../../src/clients/agent/refused-tunnel.ts';
import { AgentState } from '../../src/clients/agent/state.ts';
import { connectHalf } from '../../src/clients/connect.ts';
import type { OpenTunnel, TunnelRequest } from '../../src/clients/open-tunnel.ts';
import { systemClock } from '../../src/core/clock.ts';
import type { CoupletError } from '../../src/core/errors.ts';
import { mintId } from '../../src/core/ids.ts';
import {
  type AgentMessage,
  agentPath,
  type Hello,
  type RefusalReason,
  readAgentMessage,
  type ServerMessage,
  type TunnelReport,
  writeMessage,
} from '../../src/protocol/agent-messages.ts';
import {
  joinCodeId,
  joinCodeKey,
  mintChallenge,
  mintJoinCode,
  verifyAuthenticate,
  verifyEnrol,
  verifyJoin,
} from '../../src/protocol/agent-proofs.ts';
import { buildTunnelCommand, type TunnelDetails } from '../../src/protocol/tunnel-command.ts';
import { startRelay, type TestRelay, temporaryFolder, until } from './relay.ts';

/** A double of a server's control channel (T9) in front of a real relay, on one port. */
export class ControlServer {
  readonly relay: TestRelay;
  readonly serverId: string;
  heartbeatMs = 10_000;
  /** Says nothing more, and hears nothing, from now on. */
  deaf = false;
  /** Answers every agent so. */
  refuse: RefusalReason | undefined;
  readonly joins = new Map<string, { key: string; nodeid: string; name: string }>();
  readonly devices = new Map<string, { publicKey: string; name: string }>();
  readonly agents = new Map<string, WebSocket>();
  readonly sockets = new Set<WebSocket>();
  /** Every message of every agent, as it came. */
  readonly heard: string[] = [];
  readonly reports: TunnelReport[] = [];
  readonly #http: Server;
  readonly #streams = new Set<Duplex>();
  readonly #closing = new AbortController();
  port = 0;

  constructor(relay: TestRelay, serverId = 'server-1') {
    this.relay = relay;
    this.serverId = serverId;
    const channel = new WebSocketServer({ noServer: true });
    this.#http = createServer();
    this.#http.on('upgrade', (request, socket, head) => {
      this.#streams.add(socket);
      socket.on('close', () => this.#streams.delete(socket));
      if (request.url === agentPath) channel.handleUpgrade(request, socket, head, (agent) => this.#onAgent(agent));
      else this.#passOn(request, socket, head);
    });
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  async listen(port = 0): Promise<void> {
    this.#http.listen(port, '127.0.0.1');
    await once(this.#http, 'listening');
    this.port = (this.#http.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    this.#closing.abort();
    for (const stream of this.#streams) stream.destroy();
    this.#http.close();
    this.#http.closeAllConnections();
    await once(this.#http, 'close');
  }

  mintJoin(name = 'box'): string {
    const code = mintJoinCode();
    this.joins.set(joinCodeId(code), { key: joinCodeKey(code), nodeid: `node//${mintId()}`, name });
    return code;
  }

  send(nodeid: string, message: ServerMessage): void {
    this.agents.get(nodeid)?.send(writeMessage(message));
  }

  /** Sends the tunnel command for a session; returns its id. */
  tunnel(nodeid: string, protocol: number, details: TunnelDetails, id = mintId()): string {
    const rauth = this.relay.sealer.seal({ ruserid: 'user//alice', nodeid, id });
    this.send(nodeid, buildTunnelCommand({ path: '/meshrelay.ashx', protocol, nodeid, id, rauth }, details));
    return id;
  }

  /** What a server's API does for a client. */
  readonly open: OpenTunnel = async (request: TunnelRequest) => {
    const id =
      request.transport === 'none'
        ? this.tunnel(request.device, request.protocol, {})
        : this.tunnel(request.device, 14, {
            target: { transport: request.transport, port: request.port, address: request.host },
          });
    const cookie = this.relay.sealer.seal({ userid: 'user//alice', domainid: '' });
    return { url: `ws://127.0.0.1:${this.relay.port}/meshrelay.ashx`, id, cookie };
  };

  #passOn(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const onward = connect(this.relay.port, '127.0.0.1');
    const headers = request.rawHeaders.map((text, index) => (index % 2 === 0 ? `${text}: ` : `${text}\r\n`)).join('');
    onward.write(`GET ${request.url} HTTP/1.1\r\n${headers}\r\n`);
    onward.write(head);
    for (const [from, to] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      from.pipe(to);
      from.on('error', () => to.destroy());
      from.on('close', () => to.destroy());
    }
  }

  #onAgent(socket: WebSocket): void {
    this.sockets.add(socket);
    const say = (message: ServerMessage) => {
      if (!this.deaf) socket.send(writeMessage(message));
    };
    const challenge = mintChallenge();
    const hello: Hello = { type: 'hello', version: 1, serverId: this.serverId, challenge, timeMs: Date.now() };
    let nodeid = '';
    socket.on('message', (data) => {
      this.heard.push(String(data));
      const read = readAgentMessage(String(data));
      if (!read.ok) throw new Error(`the agent said what it must not: ${read.detail}`);
      const { message } = read;
      if (message.type === 'heartbeat') say({ type: 'heartbeat' });
      else if (message.type === 'enrol' || message.type === 'authenticate') {
        const judged = this.refuse ?? this.judge(message, challenge);
        if (typeof judged === 'string') {
          say({ type: 'refused', reason: judged });
          socket.close(4403);
          return;
        }
        nodeid = judged.nodeid;
        this.agents.set(nodeid, socket);
        say({ type: 'accepted', nodeid, name: judged.name, heartbeatMs: this.heartbeatMs });
      } else {
        this.reports.push(message);
        if (message.type === 'tunnel-refused') void this.#turnAway(message);
      }
    });
    socket.on('close', () => {
      this.sockets.delete(socket);
      if (this.agents.get(nodeid) === socket) this.agents.delete(nodeid);
    });
    say(hello);
  }

  /** The user half is told, as a server would. */
  async #turnAway({ id, detail }: Extract<AgentMessage, { type: 'tunnel-refused' }>): Promise<void> {
    const half = await connectHalf({
      url: `ws://127.0.0.1:${this.relay.port}/meshrelay.ashx`,
      id,
      credential: { parameter: 'rauth', cookie: this.relay.sealer.seal({ ruserid: 'user//alice', id }) },
    });
    await refuseTunnel(half, `error: ${detail}`, this.#closing.signal);
  }

  /** [T9] What a server does with the first message of an agent. */
  judge(
    message: Extract<AgentMessage, { type: 'enrol' | 'authenticate' }>,
    challenge: string,
  ): RefusalReason | { nodeid: string; name: string } {
    const { host } = message;
    if (host !== `127.0.0.1:${this.port}`) return 'host';
    const context = { host, serverId: this.serverId, challenge };
    if (message.type === 'authenticate') {
      const { nodeid, signature } = message;
      const device = this.devices.get(nodeid);
      const good = device !== undefined && verifyAuthenticate(device.publicKey, context, nodeid, signature);
      return good ? { nodeid, name: device.name } : 'credentials';
    }
    const { joinId, joinProof, publicKey, signature } = message;
    const join = this.joins.get(joinId);
    if (join === undefined || !verifyJoin(join.key, context, publicKey, joinProof)) return 'join-code';
    if (!verifyEnrol(publicKey, context, signature)) return 'credentials';
    this.joins.delete(joinId);
    this.devices.set(join.nodeid, { publicKey, name: join.name });
    return join;
  }
}

/** A control server over a real relay; both end with the test. */
export async function startControl(t: TestContext, relayOptions = {}, serverId?: string): Promise<ControlServer> {
  const control = new ControlServer(await startRelay(t, relayOptions), serverId);
  await control.listen();
  t.after(() => control.close());
  return control;
}

/** An error that holds nothing: until its stack is written out, V8 keeps every object on it. */
export function keepable(error: CoupletError | undefined): CoupletError | undefined {
  void error?.stack;
  return error;
}

/** A running agent and what it has told. */
export interface TestAgent {
  readonly agent: Agent;
  readonly nodeid: string;
  readonly errors: (CoupletError | undefined)[];
  readonly offline: CoupletError[];
  /** How its run ended. */
  readonly ended: Promise<unknown>;
  stop(): Promise<void>;
}

/** Starts an agent that enrols at the control server, and waits until it is online (unless told not to). */
export async function startAgent(
  t: TestContext,
  control: ControlServer,
  options: Partial<AgentOptions> = {},
  waitOnline = true,
): Promise<TestAgent> {
  const errors: TestAgent['errors'] = [];
  const offline: CoupletError[] = [];
  let nodeid = '';
  const events: AgentEvents = {
    online: (accepted) => {
      nodeid = accepted.nodeid;
    },
    offline: (error) => offline.push(error),
    tunnelClosed: (_plan, error) => errors.push(keepable(error)),
  };
  const stop = new AbortController();
  const agent = new Agent({
    url: control.url,
    join: control.mintJoin(),
    state: options.state ?? AgentState.open(temporaryFolder(t)),
    clock: systemClock,
    backoff: { minMs: 5, maxMs: 20 },
    events,
    ...options,
  });
  const ended = agent.run(stop.signal).then(
    () => undefined,
    (error) => error,
  );
  const end = async () => {
    stop.abort();
    await ended;
  };
  t.after(end);
  if (waitOnline) await until(() => nodeid !== '', 'the agent is online');
  return { agent, nodeid, errors, offline, ended, stop: end };
}
