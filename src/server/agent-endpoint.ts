import type { HttpRequest, HttpResponse, TemplatedApp, us_socket_context_t, WebSocket } from 'uWebSockets.js';
import { agentPath, maxAgentMessageBytes } from '../protocol/agent-messages.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import type { AddressClaims } from './address.ts';
import { addressClaims, respond } from './http.ts';
import { openSockets } from './open-sockets.ts';

/** One control channel, seen from its socket. */
export interface AgentConnection {
  heard(text: string): void;
  /** The socket is gone. */
  closed(): void;
}

/** What a control channel may do with its socket. */
export interface AgentSocketHandle {
  sendText(text: string): void;
  close(code: number, reason: string): void;
  terminate(): void;
}

export interface AgentEndpointParts {
  /** False where there is no directory, or the server takes nobody new. */
  accepting(): boolean;
  /** False where there is no directory: then no agent will ever be taken here. True unless told. */
  serves?(): boolean;
  clientAddress(claims: AddressClaims): string;
  /** Whether one more upgrade of this address is within the limit (R26). */
  admit(address: string): boolean;
  connected(socket: AgentSocketHandle, address: string): AgentConnection;
}

interface AgentData {
  readonly address: string;
  connection?: AgentConnection;
  gone?: boolean;
}

/** What may wait for an agent that does not read, bytes: tunnel commands are small, and it should be dead by then. */
const maxBackpressureBytes = 1024 * 1024;
/** An agent need not echo a close frame. */
const lastCloseMs = 2000;

/** The WebSocket endpoint of control channels [T9]. */
export function registerAgents(app: TemplatedApp, parts: AgentEndpointParts): void {
  app.ws<AgentData>(agentPath, {
    compression: 0,
    maxPayloadLength: maxAgentMessageBytes,
    maxBackpressure: maxBackpressureBytes,
    closeOnBackpressureLimit: true,
    // Silence is the control channel's affair: it counts messages.
    idleTimeout: 0,
    maxLifetime: 0,
    sendPingsAutomatically: false,
    upgrade: (res, req, context) => upgrade(parts, res, req, context),
    open: (ws) => {
      openSockets.add(ws);
      const data = ws.getUserData();
      data.connection = parts.connected(new AgentSocket(ws), data.address);
    },
    message: (ws, message, isBinary) => {
      if (isBinary) ws.end(closeCodes.protocolError, 'a binary message');
      else ws.getUserData().connection?.heard(Buffer.from(message).toString());
    },
    close: (ws) => {
      openSockets.delete(ws);
      const data = ws.getUserData();
      data.gone = true;
      data.connection?.closed();
    },
  });
}

function upgrade(parts: AgentEndpointParts, res: HttpResponse, req: HttpRequest, context: us_socket_context_t): void {
  const address = parts.clientAddress(addressClaims(res, req));
  if (parts.serves?.() === false) return respond(res, 404, 'this server has no directory, and so no agents');
  if (!parts.accepting()) return respond(res, 503, 'no agents are taken here now');
  if (!parts.admit(address)) return respond(res, 429, '');
  res.upgrade<AgentData>({ address }, req.getHeader('sec-websocket-key'), '', '', context);
}

class AgentSocket implements AgentSocketHandle {
  readonly #ws: WebSocket<AgentData>;
  readonly #data: AgentData;

  constructor(ws: WebSocket<AgentData>) {
    this.#ws = ws;
    this.#data = ws.getUserData();
  }

  sendText(text: string): void {
    if (this.#data.gone !== true) this.#ws.send(text, false);
  }

  close(code: number, reason: string): void {
    if (this.#data.gone === true) return;
    this.#ws.end(code, reason);
    setTimeout(() => this.terminate(), lastCloseMs).unref();
  }

  terminate(): void {
    if (this.#data.gone !== true) this.#ws.close();
  }
}
